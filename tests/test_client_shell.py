"""Both clients against a real HTTP server: every promise is kept by ``Client`` and ``AsyncClient``.

The server is the standard library's, threaded, speaking HTTP/1.1 and the frames of the wire; a
test may script what it does with the next requests, down to the socket.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import ml_dtypes
import numpy as np
import pytest

from maas_sdk.client import AsyncClient, Client, FakeClock, RetryPolicy
from maas_sdk.errors import (
    ConfigError,
    CredentialsError,
    DeadlineError,
    DependencyError,
    InputError,
    MaasError,
    MediaTypeError,
    ModelError,
    NotFoundError,
    NotReadyError,
    OverloadedError,
    TooLargeError,
    TransportError,
)
from maas_sdk.wire.frames import CONTENT_TYPE, Call, Failure, Result, decode_calls, encode_results

HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


class Endpoint(ThreadingHTTPServer):
    """A model that adds up each row: ``image`` [B, 3] → ``logits`` [B, 10], of the same dtype.

    Rows with a negative first number fail the call that they are in.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        # What to do with the next POSTs, instead of answering.
        self.script: deque[Callable[[Handler], None]] = deque()
        self.calls: list[list[Call]] = []
        self.body_bytes: list[int] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.barrier: threading.Barrier | None = None
        self.ready = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        if self.path == "/v2/health/ready":
            self.reply(200 if self.server.ready else 503, b"")
        elif self.path == "/v2/health/live":
            self.reply(200, b"{}", "application/json")
        elif self.path.endswith("/metadata") and "digits" in self.path:
            dims = [{"size": "-1", "name": ""}, {"size": "3", "name": ""}]
            inputs = {"image": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": dims}}}
            programs = {"serving_default": {"inputs": inputs}}
            document = {"metadata": {"signature_def": {"signature_def": programs}}}
            self.reply(200, json.dumps(document).encode(), "application/json")
        else:
            body = b'{"error": "no such model: nope", "code": "not_found"}'
            self.reply(404, body, "application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.paths.append(self.path)
        self.server.headers.append(dict(self.headers.items()))
        self.server.body_bytes.append(len(body))
        self.calls = [call for call in decode_calls(body) if isinstance(call, Call)]
        self.server.calls.append(self.calls)
        if self.server.barrier:
            self.server.barrier.wait(20)
        if self.server.script:
            self.server.script.popleft()(self)
        else:
            answers_all(self)

    def reply(self, status: int, body: bytes, type: str = "", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if type:
            self.send_header("Content-Type", type)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


def answer(call: Call) -> Result | Failure:
    x = call.inputs["image"]
    if (x[:, :1] < 0).any():
        return Failure(call.id, "model_failed", "a negative row")
    sums = x.astype(np.float32).sum(1, keepdims=True)
    return Result(call.id, {"logits": (sums + np.arange(10)).astype(x.dtype)})


def expected(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return answer(Call("", {"image": x})).outputs["logits"]  # type: ignore[union-attr]


def says(status: int, body: bytes = b"", type: str = "", **headers: str) -> Callable[..., None]:
    return lambda handler: handler.reply(status, body, type, **headers)


def answers_all(handler: Handler) -> None:
    frame = encode_results([answer(call) for call in handler.calls])
    handler.reply(200, b"".join(frame), CONTENT_TYPE)


def dies_half_way(handler: Handler) -> None:
    """Half of the body, then the connection is reset."""
    frame = b"".join(encode_results([answer(call) for call in handler.calls]))
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(frame)))
    handler.send_header("Content-Type", CONTENT_TYPE)
    handler.end_headers()
    handler.wfile.write(frame[: len(frame) // 2])
    handler.wfile.flush()
    hang_up(handler)


def hang_up(handler: Handler) -> None:
    """Without a word. Linger of 0: a reset, as when the process is killed."""
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def speaks_ssh(handler: Handler) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.9\r\n")
    handler.close_connection = True


class Awaited:
    """``AsyncClient`` with the methods of ``Client``: each runs on a loop kept for it."""

    def __init__(self, url: str, *args: Any, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(url, *args, **options)

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            return await getattr(self._client, name)(*args, **options)

        return lambda *args, **options: self._runner.run(call(*args, **options))

    def predict_many(self, *args: Any, **options: Any) -> Iterator[Any]:
        answers: Any = self._client.predict_many(*args, **options)

        def walk() -> Iterator[Any]:
            async def following() -> Any:
                return await anext(answers, StopIteration)

            try:
                while (found := self._runner.run(following())) is not StopIteration:
                    yield found
            finally:
                self._runner.run(answers.aclose())

        return walk()

    def __enter__(self) -> Awaited:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Endpoint() as server:
        # A short poll, as shutdown waits for it.
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(params=[Client, Awaited], ids=["sync", "async"])
def make(request: pytest.FixtureRequest, endpoint: Endpoint) -> Iterator[Callable[..., Any]]:
    """Makes clients of the endpoint with a clock on which waiting takes no time."""
    made: list[Any] = []

    def client(url: str | None = None, model: str | None = "digits", **options: Any) -> Any:
        options.setdefault("clock", FakeClock())
        made.append(request.param(url or endpoint.url, model, **options))
        return made[-1]

    yield client
    for one in made:
        one.__exit__(None, None, None)


X = np.arange(12, dtype=np.float32).reshape(4, 3)


# ---- predict ----


def test_predict_answers_an_array_with_an_array(make: Any, endpoint: Endpoint) -> None:
    """numpy in, numpy out; the input's name is looked up once and connections are reused."""
    client = make()
    for _ in range(3):
        np.testing.assert_array_equal(client.predict(X), expected(X))
    np.testing.assert_array_equal(client.predict({"image": X}), expected(X))
    assert endpoint.paths == ["/v1/models/digits/metadata"] + ["/v1/models/digits:predict"] * 4
    assert endpoint.connections == 1


def test_bfloat16_travels_both_ways(make: Any) -> None:
    """Neither side of the wire turns it into anything else."""
    x = X.astype(ml_dtypes.bfloat16)
    found = make().predict(x)
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found, expected(x))


def test_what_the_caller_says_arrives(make: Any, endpoint: Endpoint) -> None:
    """Version, label, program, priority, timeout, token and headers."""
    client = make(token="t", headers={"X-Team": "a"})
    client.predict({"image": X}, version=3, program="embed", priority=2, timeout_s=1.5)
    client.predict({"image": X}, label="canary")
    assert endpoint.paths == [
        "/v1/models/digits/versions/3:predict",
        "/v1/models/digits/labels/canary:predict",
    ]
    call = endpoint.calls[0][0]
    assert (call.program, call.priority, call.timeout_s) == ("embed", 2, 1.5)
    assert endpoint.headers[0]["Authorization"] == "Bearer t"
    assert endpoint.headers[0]["X-Team"] == "a"


def test_a_large_predict_is_split_and_joined(make: Any, endpoint: Endpoint) -> None:
    """Over max_request_bytes: several requests, none over it, one answer."""
    x = np.random.default_rng(0).random((1000, 3), np.float32)
    found = make(max_request_bytes=4000).predict(x)
    np.testing.assert_array_equal(found, expected(x))
    assert len(endpoint.calls) > 3
    assert max(endpoint.body_bytes) <= 4000


def test_a_body_of_many_blocks_arrives_whole(make: Any) -> None:
    """Several megabytes in one request."""
    x = np.random.default_rng(0).integers(0, 9, (400_000, 3)).astype(np.float32)
    np.testing.assert_array_equal(make().predict({"image": x}), expected(x))


def test_an_empty_batch_is_answered(make: Any) -> None:
    """Zero rows in, zero rows out."""
    assert make().predict(X[:0]).shape == (0, 10)


def test_threads_share_one_client(endpoint: Endpoint) -> None:
    """Client is thread-safe: each of many threads gets its own answers."""
    rng = np.random.default_rng(0)
    batches = [rng.random((5, 3), np.float32) for _ in range(60)]
    with Client(endpoint.url, "digits") as client, ThreadPoolExecutor(8) as pool:
        for x, found in zip(batches, pool.map(client.predict, batches), strict=True):
            np.testing.assert_array_equal(found, expected(x))
    assert endpoint.connections <= 8


# ---- predict_many ----


def test_many_rows_are_answered_in_order(make: Any, endpoint: Endpoint) -> None:
    """One answer per row, although requests overtake one another."""
    x = np.random.default_rng(0).random((103, 3), np.float32)
    endpoint.script.append(lambda handler: (time.sleep(0.1), answers_all(handler)))
    found = list(make().predict_many(x, batch_rows=10))
    np.testing.assert_array_equal(np.stack(found), expected(x))
    assert sorted(len(call.inputs["image"]) for (call,) in endpoint.calls) == [3] + [10] * 10


def test_requests_are_really_under_way_together(make: Any, endpoint: Endpoint) -> None:
    """The server answers none before four have come: with fewer in flight this would not end."""
    endpoint.barrier = threading.Barrier(4)
    found = list(make().predict_many(np.tile(X, (2, 1)), batch_rows=1, max_in_flight=4))
    np.testing.assert_array_equal(np.stack(found), expected(np.tile(X, (2, 1))))


def test_the_iterable_is_consumed_as_answers_are_taken(make: Any) -> None:
    """An endless stream works: no more than the requests in flight are drawn ahead."""
    drawn = 0

    def endless() -> Iterator[Any]:
        nonlocal drawn
        while True:
            drawn += 1
            yield X[drawn % 4]

    answers = make().predict_many(endless(), batch_rows=5, max_in_flight=3)
    assert drawn == 0
    next(answers)
    assert drawn == 15
    for _ in range(5):
        next(answers)
    assert drawn == 20
    answers.close()


def test_many_batches_keep_their_sizes(make: Any, endpoint: Endpoint) -> None:
    """of='batches': one answer per batch, small ones share a request, large ones are split."""
    rng = np.random.default_rng(0)
    batches = [rng.random((rows, 3), np.float32) for rows in (1, 2, 0, 3, 700, 1)]
    found = list(make(max_request_bytes=4000).predict_many(batches, of="batches"))
    for x, y in zip(batches, found, strict=True):
        np.testing.assert_array_equal(y, expected(x))
    # Which request arrives first is open.
    assert max(len(calls) for calls in endpoint.calls) == 4
    assert max(endpoint.body_bytes) <= 4000


def test_the_first_error_is_raised_in_its_turn(make: Any) -> None:
    """Answers before it are given out; the message has the rows."""
    x = np.ones((30, 3), np.float32)
    x[14] = -1
    answers = make().predict_many(x, batch_rows=10)
    for _ in range(10):
        next(answers)
    with pytest.raises(ModelError, match=r"^rows 10–19: a negative row$") as caught:
        next(answers)
    assert (caught.value.evidence["first_item"], caught.value.evidence["last_item"]) == (10, 19)


def test_errors_may_be_returned_in_place(make: Any) -> None:
    """errors='return': exactly the failed call's items are errors, the others are answered."""
    batches = [X, -1 - X, X + 1]
    found = list(make().predict_many(batches, of="batches", errors="return"))
    np.testing.assert_array_equal(found[0], expected(X))
    assert type(found[1]) is ModelError
    assert found[1].message == "item 1: a negative row"
    np.testing.assert_array_equal(found[2], expected(X + 1))


def test_an_item_that_is_no_input_is_raised(make: Any) -> None:
    """With its place in the iterable."""
    with pytest.raises(InputError, match=r"item 2: input 'image': an array of dtype <U1"):
        list(make().predict_many([X[0], X[1], np.array(["a"])]))


def test_who_stops_early_does_not_wait(make: Any, endpoint: Endpoint) -> None:
    """Leaving the loop leaves the requests under way to themselves."""
    release, waited = threading.Event(), []

    def only_the_first(handler: Handler) -> None:
        if handler.calls[0].inputs["image"][0, 0] == X[0, 0]:
            answers_all(handler)
        else:
            waited.append(release.wait(20))
            hang_up(handler)

    endpoint.script.extend([only_the_first] * 2)
    answers = make(retry=RetryPolicy(max_attempts=1)).predict_many(
        X[:2], batch_rows=1, max_in_flight=2
    )
    next(answers)
    answers.close()
    assert waited == []
    release.set()


def test_nothing_to_do_sends_nothing(make: Any, endpoint: Endpoint) -> None:
    """An empty iterable is answered with nothing."""
    assert list(make().predict_many([])) == []
    assert endpoint.calls == []


def test_progress_goes_to_a_function(make: Any) -> None:
    """Items answered so far, and the total where it is known."""
    seen: list[tuple[int, int | None]] = []
    list(make().predict_many(X, batch_rows=3, progress=lambda *args: seen.append(args)))
    assert seen == [(3, 4), (4, 4)]
    seen.clear()
    list(make().predict_many(iter(X), batch_rows=3, progress=lambda *args: seen.append(args)))
    assert seen == [(3, None), (4, None)]


def test_progress_draws_a_bar(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """progress=True uses rich."""
    assert len(list(make().predict_many(X, progress=True))) == 4
    assert "4/4" in capsys.readouterr().out


def test_progress_without_rich_says_how_to_get_it(
    make: Any, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is sent, with the install line."""
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with pytest.raises(DependencyError, match=r"pip install 'maas-sdk\[cli\]'"):
        make().predict_many(X, progress=True)
    assert endpoint.paths == []


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        ({"image": X}, {}, "got a dict; one batch by names goes to predict"),
        ("text", {}, "got a str"),
        (X, {"max_in_flight": 0}, "max_in_flight: expected at least 1"),
        (X, {"errors": "ignore"}, "errors: expected 'raise' or 'return'"),
        (X, {"progress": "yes"}, "progress: expected True, False or a function"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    make: Any, items: Any, options: dict[str, Any], message: str
) -> None:
    """At the call, not at the first answer."""
    with pytest.raises(ConfigError, match=message):
        make().predict_many(items, **options)


async def test_asynchronous_iterables_are_taken(endpoint: Endpoint) -> None:
    """AsyncClient.predict_many draws from an async generator."""

    async def rows() -> AsyncIterator[Any]:
        for row in X:
            await asyncio.sleep(0)
            yield row

    async with AsyncClient(endpoint.url, "digits") as client:
        found = [y async for y in client.predict_many(rows(), batch_rows=3)]
    np.testing.assert_array_equal(np.stack(found), expected(X))


async def test_a_cancelled_caller_leaves_nothing_running(endpoint: Endpoint) -> None:
    """Cancelling the task that iterates cancels the requests in flight."""
    release = threading.Event()

    def held(handler: Handler) -> None:
        release.wait(20)
        hang_up(handler)

    endpoint.script.extend([held] * 4)

    async def consume(client: AsyncClient) -> None:
        async for _ in client.predict_many(X, batch_rows=1):
            pass

    async with AsyncClient(endpoint.url, "digits") as client:
        task = asyncio.create_task(consume(client))
        while len(endpoint.calls) < 4:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}
    release.set()


# ---- failure ----


def test_429_is_retried_after_the_pause_it_names(make: Any, endpoint: Endpoint) -> None:
    """Retry-After, then the answer."""
    clock = FakeClock()
    endpoint.script.append(says(429, Retry_After="3"))
    np.testing.assert_array_equal(make(clock=clock).predict({"image": X}), expected(X))
    assert len(clock.slept) == 1
    assert 3.0 <= clock.slept[0] <= 3.1
    assert endpoint.calls[1][0].timeout_s == pytest.approx(30 - clock.slept[0], abs=0.01)


def test_503_is_retried(make: Any, endpoint: Endpoint) -> None:
    """A server that still loads is waited for."""
    body = b'{"error": "loading", "code": "not_ready"}'
    endpoint.script.extend([says(503, body, "application/json")] * 3)
    np.testing.assert_array_equal(make().predict({"image": X}), expected(X))


def test_500_is_not(make: Any, endpoint: Endpoint) -> None:
    """A model that failed would fail again."""
    body = b'{"error": "division by zero", "code": "model_failed"}'
    endpoint.script.append(says(500, body, "application/json"))
    with pytest.raises(ModelError, match=r"^division by zero$"):
        make().predict({"image": X})
    assert len(endpoint.calls) == 1


def test_a_spent_budget_stops_retries(make: Any, endpoint: Endpoint) -> None:
    """In an outage the clients' retries run dry instead of multiplying the load."""
    endpoint.script.extend([says(503)] * 100)
    client = make(retry=RetryPolicy(budget_tokens=3, budget_share=0.0))
    for _ in range(10):
        with pytest.raises(NotReadyError):
            client.predict({"image": X})
    assert len(endpoint.calls) == 10 + 3


def test_the_deadline_ends_a_silent_server(make: Any, endpoint: Endpoint) -> None:
    """No answer within timeout_s: DeadlineError, not retried."""
    release = threading.Event()
    endpoint.script.append(lambda handler: release.wait(20))
    with pytest.raises(DeadlineError, match="no answer in time"):
        make().predict({"image": X}, timeout_s=0.2)
    release.set()
    assert len(endpoint.calls) == 1


def test_the_deadline_ends_a_dripping_server(make: Any, endpoint: Endpoint) -> None:
    """Bytes that keep coming do not stretch the caller's time."""
    clock = FakeClock()

    def drips(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        clock.now += 31
        handler.wfile.write(b"x")
        handler.wfile.flush()

    endpoint.script.append(drips)
    with pytest.raises(DeadlineError, match="did not come to its end in time"):
        make(clock=clock).predict({"image": X})


@pytest.mark.parametrize("death", [dies_half_way, hang_up])
def test_a_server_that_dies_is_tried_again(
    make: Any, endpoint: Endpoint, death: Callable[[Handler], None]
) -> None:
    """Gone in mid-response or before it: predicting twice does no harm, so the client does."""
    endpoint.script.append(death)
    np.testing.assert_array_equal(make().predict({"image": X}), expected(X))
    endpoint.script.extend([death] * 2)
    with pytest.raises(TransportError, match=r"POST http://127\.0\.0\.1.*:predict") as caught:
        make(retry=RetryPolicy(max_attempts=2)).predict({"image": X})
    assert caught.value.evidence["attempts"] == 2
    assert isinstance(caught.value.__cause__, httpx.HTTPError)


def test_a_refused_connection_says_where(make: Any) -> None:
    """Nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        client = make(url)
        with pytest.raises(TransportError, match=rf"POST {url}/v1.*no connection") as caught:
            client.predict({"image": X})
        assert caught.value.evidence["attempts"] == 4
        assert not client.live()
        assert not client.ready()


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        (says(200, b"\x93garbage", CONTENT_TYPE), TransportError, "garbled: "),
        (says(200, b"", CONTENT_TYPE), TransportError, "garbled: "),
        (says(200, HTML, "text/html"), MediaTypeError, "expected an answer of application/x-msg"),
        (says(502, HTML, "text/html"), TransportError, "HTTP 502 .*Bad Gateway"),
        (says(404, HTML, "text/html"), NotFoundError, "HTTP 404 .*check url= and model="),
        (says(401), CredentialsError, "token="),
        (says(413), TooLargeError, "lower max_request_bytes="),
        (says(302, Location="http://elsewhere/"), ConfigError, "redirects to http://elsewhere/"),
        (says(307, Location="/other"), ConfigError, "use the final address as url="),
        (says(429), OverloadedError, "HTTP 429"),
        (speaks_ssh, TransportError, "is not HTTP"),
    ],
)
def test_what_is_no_answer_becomes_the_right_error(
    make: Any, endpoint: Endpoint, script: Any, kind: type[MaasError], message: str
) -> None:
    """Garbage, proxies, redirects and other protocols."""
    endpoint.script.append(script)
    with pytest.raises(MaasError, match=message) as caught:
        make(retry=RetryPolicy(max_attempts=1)).predict({"image": X})
    assert type(caught.value) is kind


def test_a_reply_over_the_limit_is_not_read(make: Any) -> None:
    """The limit and the option are named."""
    with pytest.raises(TooLargeError, match="over max_response_bytes=100"):
        make(max_response_bytes=100).predict({"image": X})


# ---- the rest ----


def test_metadata_and_health(make: Any, endpoint: Endpoint) -> None:
    """What the endpoint says about itself."""
    client = make()
    assert "signature_def" in client.metadata()["metadata"]
    assert client.metadata(version=2)
    assert endpoint.paths[-1] == "/v1/models/digits/versions/2/metadata"
    assert client.live()
    assert client.ready()
    endpoint.ready = False
    assert not client.ready()
    with pytest.raises(NotFoundError, match=r"^no such model: nope$"):
        make(model="nope").metadata()


def test_a_closed_client_says_so(endpoint: Endpoint) -> None:
    """Not an exception of httpx."""
    client = Client(endpoint.url, "digits")
    client.close()
    with pytest.raises(ConfigError, match="closed; make a new one"):
        client.predict({"image": X})
    assert repr(client) == f"Client('{endpoint.url}', model='digits')"


async def test_a_closed_async_client_says_so(endpoint: Endpoint) -> None:
    """Not an exception of httpx."""
    client = AsyncClient(endpoint.url, "digits")
    await client.close()
    with pytest.raises(ConfigError, match="closed; make a new one"):
        await client.predict({"image": X})


def test_the_transport_can_be_replaced() -> None:
    """httpx's transports are the seam: no network is needed to test against the client."""

    def endpoint(request: httpx.Request) -> httpx.Response:
        calls = [call for call in decode_calls(request.read()) if isinstance(call, Call)]
        body = b"".join(encode_results([answer(call) for call in calls]))
        return httpx.Response(200, headers={"content-type": CONTENT_TYPE}, content=body)

    with Client("http://nowhere", "digits", transport=httpx.MockTransport(endpoint)) as client:
        np.testing.assert_array_equal(client.predict({"image": X}), expected(X))


def test_the_client_brings_nothing_of_jax_nor_of_a_server() -> None:
    """A fresh process that imports the client has httpx, numpy, msgpack and little else."""
    # httpx imports its command line's rich and click where they are installed; that is its own
    # affair and no cost of an installation of the client alone, so httpx goes first.
    program = (
        "import sys, httpx; before = set(sys.modules); import maas_sdk.client; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "numpy" in loaded
    heavy = {"jax", "jaxlib", "flax", "optax", "orbax", "rich", "ml_dtypes", "asyncio"}
    servers = {"flask", "gunicorn", "uvicorn", "starlette", "functions_framework"}
    assert not set(loaded) & (heavy | servers)
    assert {"maas_sdk"} <= set(loaded)
