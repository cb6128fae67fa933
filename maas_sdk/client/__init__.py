"""The client: call a model at an endpoint, from a script or from another service.

Needs httpx, numpy and msgpack, nothing of JAX and nothing of the server::

    from maas_sdk.client import Client

    with Client("https://…", model="digits") as client:
        logits = client.predict(images)

``AsyncClient`` is the same for asyncio. Errors are those of ``maas_sdk.errors``.
"""

from maas_sdk.client.aio import AsyncClient
from maas_sdk.client.clock import Clock, FakeClock
from maas_sdk.client.retries import RetryPolicy
from maas_sdk.client.sync import Client

__all__ = ["AsyncClient", "Client", "Clock", "FakeClock", "RetryPolicy"]
