"""Serving of bundles: calls over HTTP → engine runs → answers.

    from maas_sdk.serve import serve

    predict = serve("digits.maas")  # at module level of main.py; then --target predict

Reading order: ``core`` (pure: ``messages``, ``routes``, ``calls``, ``endpoint``), ``dialects`` (how
requests and answers are written), ``host`` (a model that loads, serves and drains), then the thin
``shells``: ``function`` for functions-framework and ``asgi`` for uvicorn.

Names are imported when they are asked for. Flask comes with ``serve`` alone, and ``start`` has to
come before whatever imports numpy: a face that imported all of them would undo both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maas_sdk.faces import lazy_names

if TYPE_CHECKING:
    from maas_sdk.serve.core.endpoint import Endpoint
    from maas_sdk.serve.core.limits import EndpointLimits
    from maas_sdk.serve.core.messages import Request, Response
    from maas_sdk.serve.host import ModelHost
    from maas_sdk.serve.shells.asgi import asgi_app
    from maas_sdk.serve.shells.function import serve

__all__ = [
    "Endpoint",
    "EndpointLimits",
    "ModelHost",
    "Request",
    "Response",
    "asgi_app",
    "serve",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(
        __name__,
        {
            "Endpoint": "core.endpoint",
            "EndpointLimits": "core.limits",
            "Request": "core.messages",
            "Response": "core.messages",
            "ModelHost": "host",
            "asgi_app": "shells.asgi",
            "serve": "shells.function",
        },
    )
