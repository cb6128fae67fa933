"""An endpoint and its client in one process, joined without a socket."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx

from maas_sdk.client import Client
from maas_sdk.runtime import load
from maas_sdk.serve.core.endpoint import Endpoint
from maas_sdk.serve.core.limits import EndpointLimits
from maas_sdk.serve.core.messages import Request
from maas_sdk.serve.host import ModelHost

__all__ = ["EndpointTransport", "served_client"]

# Nothing looks it up; a client wants a URL.
_URL: Final = "http://maas.test"
_DRAIN_TIMEOUT_S: Final = 30.0


class EndpointTransport(httpx.BaseTransport):
    """An httpx transport that hands each request to an endpoint of this process.

    Args:
        endpoint: the models; ``served_client`` makes one of a bundle.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer as a server would; the body is copied, as a socket would."""
        response = self._endpoint.handle(
            Request(
                method=request.method,
                path=request.url.raw_path.decode("ascii"),
                headers={name.lower(): value for name, value in request.headers.items()},
                body=request.read(),
            )
        )
        content = b"".join(response.chunks())
        return httpx.Response(response.status, headers=response.headers, content=content)


@contextmanager
def served_client(
    bundle: str | os.PathLike[str],
    *,
    limits: EndpointLimits | None = None,
    **options: Any,
) -> Iterator[Client]:
    """Serve a bundle in this process for the length of a ``with`` block; yield its client.

    Requests go through the same code as behind a server: frames, limits and errors are real.

    Args:
        bundle: the bundle's folder.
        limits: what a request may ask of the endpoint.
        options: of ``Client``, such as ``timeout_s`` or ``retry``.

    Raises:
        MaasError: the bundle cannot be loaded.
    """
    with load(bundle) as engine:
        endpoint = Endpoint(ModelHost(lambda: engine), limits)
        endpoint.start()
        options = {"url": _URL, "model": engine.manifest.name, **options}
        with Client(transport=EndpointTransport(endpoint), **options) as client:
            try:
                yield client
            finally:
                endpoint.drain(_DRAIN_TIMEOUT_S)
