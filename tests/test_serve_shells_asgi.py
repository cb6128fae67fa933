"""The ASGI shell behind a real uvicorn, and by hand where a server cannot be made to misbehave."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import uvicorn

from maas_sdk.bundle.manifest import Manifest, Program
from maas_sdk.serve import Endpoint, EndpointLimits, ModelHost, asgi_app
from maas_sdk.tensors import Array, Signature, TensorSpec
from maas_sdk.wire.frames import CONTENT_TYPE, Call, Result, decode_results, encode_calls
from tests.kit.engines import CheckingEngine

ROWS = TensorSpec(dtype="float32", shape=(None, 2))


class FakeEngine(CheckingEngine):
    def __init__(self) -> None:
        twice = Program(
            signature=Signature(inputs={"x": ROWS}, outputs={"y": ROWS}),
            weights=(),
            buckets=(1, 2, 4),
            row_independent=True,
        )
        self.manifest = Manifest(
            name="toy", programs={"predict": twice, "sleep": twice}, targets={}
        )
        self.report = SimpleNamespace(tier="program", target=None, reason="a fake", timings_s={})
        self.running = threading.Event()
        self.closed = threading.Event()

    def run(self, inputs: Mapping[str, Array], *, program: str = "predict") -> dict[str, Array]:
        self.running.set()
        if program == "sleep":
            time.sleep(float(inputs["x"][0, 0]))
        return {"y": inputs["x"] * 2}

    def close(self) -> None:
        self.closed.set()


class Server:
    """uvicorn in a thread, on a free port."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        endpoint = Endpoint(
            ModelHost(lambda: self.engine), EndpointLimits(max_request_bytes=1_000_000)
        )
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uvicorn = uvicorn.Server(
            uvicorn.Config(asgi_app(endpoint), log_level="warning", lifespan="on")
        )
        self.thread = threading.Thread(target=self.uvicorn.run, args=([self.listener],))
        self.thread.start()

    def connect(self) -> http.client.HTTPConnection:
        port = self.listener.getsockname()[1]
        return http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        connection = self.connect()
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def predict(self, x: Array, program: str | None = None) -> Array:
        body = b"".join(bytes(part) for part in encode_calls([Call("a", {"x": x}, program)]))
        status, answer = self.ask(
            "POST", "/v1/models/toy:predict", body, **{"Content-Type": CONTENT_TYPE}
        )
        assert status == 200, answer
        (result,) = decode_results(answer)
        assert isinstance(result, Result)
        return result.outputs["y"]

    def stop(self) -> None:
        self.uvicorn.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()
        self.listener.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


def rows(count: int) -> Array:
    return np.arange(count * 2, dtype=np.float32).reshape(count, 2)


def test_answers_over_a_socket(server: Server) -> None:
    """The same endpoint behind another server: frames small and large, JSON, refusals, HEAD."""
    for count in (0, 3, 100_000):
        np.testing.assert_array_equal(server.predict(rows(count)), rows(count) * 2)
    assert server.ask("POST", "/v1/models/t%6Fy:predict", b'{"instances": [[1, 2]]}') == (
        200,
        b'{"predictions": [[2.0, 4.0]]}',
    )
    assert server.ask("GET", "/v2/health/ready") == (200, b'{"ready": true}')
    assert server.ask("HEAD", "/v2/health/ready") == (200, b"")
    status, body = server.ask("POST", "/v1/models/toy%2Fversions%2F1:predict", b"{}")
    assert (status, json.loads(body)["code"]) == (404, "not_found")


def test_many_clients(server: Server) -> None:
    """32 clients at once each get the answers to their own questions."""

    def client(number: int) -> None:
        x = rows(3) + np.float32(100 * number)
        np.testing.assert_array_equal(server.predict(x), x * 2)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(client, range(64)))


def test_body_over_the_limit(server: Server) -> None:
    """413, declared or chunked, in JSON."""
    for body in (b"x" * 1_000_001, (b"x" * 300_000 for _ in range(4))):
        status, answer = server.ask("POST", "/v1/models/toy:predict", body)
        assert (status, json.loads(answer)["code"]) == (413, "too_large")


def test_shutdown_lets_calls_finish() -> None:
    """When the server stops, the call in flight is answered and the engine is freed."""
    server = Server()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(server.predict, np.full((1, 2), 0.5, np.float32), "sleep")
        assert server.engine.running.wait(30)
        server.stop()
        np.testing.assert_array_equal(slow.result(30), [[1, 1]])
    assert server.engine.closed.is_set()


async def _drive(
    messages: list[dict[str, Any]], engine: FakeEngine, *, limit: int = 1000, **scope: Any
) -> list[dict[str, Any]]:
    """Run the app on a scripted connection; what it sent."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        assert messages, "the app asked for more than there was to read"
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    limits = EndpointLimits(max_request_bytes=limit)
    app = asgi_app(Endpoint(ModelHost(lambda: engine), limits), threads=1)
    full = {"type": "http", "method": "POST", "path": "/v1/models/toy:predict", "headers": []}
    await asyncio.wait_for(app({**full, **scope}, receive, send), 30)
    return sent


async def test_client_that_goes_away_is_not_answered() -> None:
    """A disconnect while the body is read ends the request: nothing runs, nothing is sent."""
    engine = FakeEngine()
    messages = [
        {"type": "http.request", "body": b'{"inst', "more_body": True},
        {"type": "http.disconnect"},
    ]
    assert await _drive(messages, engine) == []
    assert not engine.running.is_set()


async def test_reading_stops_at_the_limit() -> None:
    """No part after the one that breaks the limit is asked for, nor any part of a declared one."""
    messages = [{"type": "http.request", "body": b"x" * 600, "more_body": True}] * 2
    start, *_ = await _drive(messages, FakeEngine())
    assert start["status"] == 413
    start, *_ = await _drive([], FakeEngine(), headers=[(b"content-length", b"1001")])
    assert start["status"] == 413


async def test_answer_to_a_client_that_went_away() -> None:
    """A send that fails because the client is gone ends the request without an error."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    sent: list[str] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])
        if message["type"] == "http.response.body":
            raise OSError("gone")

    app = asgi_app(Endpoint(ModelHost(FakeEngine)), threads=1)
    scope = {"type": "http", "method": "GET", "path": "/v2/health/live", "headers": []}
    await app(scope, receive, send)
    assert sent == ["http.response.start", "http.response.body"]


async def test_websocket_is_refused() -> None:
    """What is not HTTP is closed, without waiting for anything."""
    assert await _drive([], FakeEngine(), type="websocket") == [
        {"type": "websocket.close", "code": 1000}
    ]
