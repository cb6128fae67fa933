"""The predict function in functions-framework's ASGI flavour, to measure beside the sync one."""

import os

import functions_framework.aio

from maas_sdk.serve import start  # isort: skip, comes before what imports numpy
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response as StarletteResponse

from maas_sdk.serve import Endpoint, ModelHost, Request


def load():
    import maas_sdk.runtime

    return maas_sdk.runtime.load(os.environ["MAAS_BUNDLE"], check="deferred")


endpoint = Endpoint(ModelHost(load))
os.register_at_fork(before=start.finish, after_in_child=endpoint.start)


@functions_framework.aio.http
async def predict(request: StarletteRequest) -> StarletteResponse:
    """One request through the same endpoint core."""
    body = await request.body()
    asked = Request(
        method=request.method,
        path=request.scope["raw_path"].decode("latin-1"),
        headers=dict(request.headers),
        body=body,
    )
    response = await run_in_threadpool(endpoint.handle, asked)
    return StarletteResponse(
        b"".join(response.body), status_code=response.status, headers=dict(response.headers)
    )
