"""The shell for uvicorn and other ASGI 3 servers: ``uvicorn.run(asgi_app(endpoint))``.

The event loop reads bodies and writes answers; models run in threads. Loading starts with the
server's lifespan, or with the first request of a server that has none.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from maas_sdk.errors import MaasError
from maas_sdk.serve.core.endpoint import Endpoint
from maas_sdk.serve.core.messages import Request, Response

__all__ = ["asgi_app"]

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


def asgi_app(
    endpoint: Endpoint, *, threads: int | None = None, drain_timeout_s: float = 30.0
) -> Callable[[_Message, _Receive, _Send], Awaitable[None]]:
    """Return an ASGI application that serves ``endpoint``.

    Args:
        endpoint: the models.
        threads: requests that run at once; None: four per CPU, as functions-framework has it.
        drain_timeout_s: longest wait, at shutdown, for calls in flight.
    """
    executor = ThreadPoolExecutor(threads or 4 * (os.cpu_count() or 1), "maas-serve")

    async def app(scope: _Message, receive: _Receive, send: _Send) -> None:
        match scope["type"]:
            case "lifespan":
                await _lifespan(endpoint, executor, drain_timeout_s, receive, send)
            case "http":
                await _http(endpoint, executor, scope, receive, send)
            case _:  # a websocket: refused before it is accepted
                await send({"type": "websocket.close", "code": 1000})

    return app


async def _lifespan(
    endpoint: Endpoint,
    executor: ThreadPoolExecutor,
    drain_timeout_s: float,
    receive: _Receive,
    send: _Send,
) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            endpoint.start()
            await send({"type": "lifespan.startup.complete"})
        else:
            # Not in the executor: its threads may all be busy with what is waited for.
            await asyncio.to_thread(endpoint.drain, drain_timeout_s)
            executor.shutdown(wait=False)
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _http(
    endpoint: Endpoint,
    executor: ThreadPoolExecutor,
    scope: _Message,
    receive: _Receive,
    send: _Send,
) -> None:
    headers = {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
    }
    try:
        body = await _read_body(endpoint, headers, receive)
    except MaasError as error:
        await _respond(endpoint.refuse(error), send)
        return
    if body is None:
        return
    raw_path = scope.get("raw_path") or scope["path"].encode()
    request = Request(
        method=scope["method"], path=raw_path.decode("latin-1"), headers=headers, body=body
    )
    loop = asyncio.get_running_loop()
    response = await loop.run_in_executor(executor, endpoint.handle, request)
    await _respond(response, send)


async def _read_body(
    endpoint: Endpoint, headers: dict[str, str], receive: _Receive
) -> bytes | bytearray | None:
    """Return the whole body; None if the client went away meanwhile.

    Raises:
        TooLargeError: over the limit by the declared length, or by what has come so far.
    """
    declared = headers.get("content-length", "")
    endpoint.check_size(int(declared) if declared.isdecimal() else 0)
    # One buffer that grows: as a list, a body sent in crumbs would take many times its size.
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part: bytes = message.get("body", b"")
        endpoint.check_size(len(body) + len(part))
        more = message.get("more_body", False)
        if not body and not more:
            return part
        body += part
        if not more:
            return body


async def _respond(response: Response, send: _Send) -> None:
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in response.headers]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    try:
        for chunk in response.chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    except OSError:
        return  # the client went away: ASGI has the server raise OSError then
