"""The function shell in a real functions-framework process, over real sockets, with a fake engine.

The engine is fake so that loading can be slow, fail, or be seen; the real one has its turn in
``test_deploy_package.py``.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas_sdk.errors import ConfigError
from maas_sdk.serve import EndpointLimits
from maas_sdk.tensors import Array
from maas_sdk.wire.frames import CONTENT_TYPE, Call, Result, decode_results, encode_calls
from tests.kit.ports import free_port

MAIN = """
    import os
    import time
    from types import SimpleNamespace

    import numpy as np

    from maas_sdk.bundle.manifest import Manifest, Program
    from maas_sdk.errors import CorruptError
    from maas_sdk.serve import serve
    from maas_sdk.tensors import Signature, TensorSpec

    MASTER = os.getpid()
    ROWS = TensorSpec(dtype="float32", shape=(None, 2))
    TWICE = Program(
        signature=Signature(inputs={"x": ROWS}, outputs={"y": ROWS}),
        weights=(), buckets=(1, 2, 4), row_independent=True,
    )


    class Engine:
        manifest = Manifest(name="toy", programs={"predict": TWICE, "sleep": TWICE}, targets={})
        report = SimpleNamespace(tier="executable", target="fake", reason="fake", timings_s={})
        fault = None

        def check(self, program, inputs):
            rows = TWICE.signature.check(inputs)
            return SimpleNamespace(program=program, inputs=inputs, rows=rows)

        def run_checked(self, call):
            if call.program == "sleep":
                time.sleep(float(call.inputs["x"][0, 0]))
            return {"y": call.inputs["x"] * 2}

        def close(self):
            print("engine closed", flush=True)


    def load():
        forked = os.getpid() != MASTER
        print(f"loading {forked=}", flush=True)
        time.sleep(float(os.environ.get("LOAD_S", "0")))
        if "LOAD_ERROR" in os.environ:
            raise CorruptError(os.environ["LOAD_ERROR"])
        return Engine()


    predict = serve("model.maas", load=load)
"""


class Server:
    """A functions-framework process and what it wrote."""

    def __init__(self, folder: Path, port: int, **environ: str) -> None:
        self.port = port
        self.log = folder / f"log-{port}"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                (
                    f"{sys.executable} -m functions_framework --target predict --host 127.0.0.1 "
                    f"--port {port} --source {folder / 'main.py'}"
                ).split(),
                env={**os.environ, "THREADS": "8", **environ},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def connect(self) -> http.client.HTTPConnection:
        """A connection, as soon as the port is open."""
        end = time.monotonic() + 60
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            try:
                connection.connect()
            except OSError:
                connection.close()
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < end, self.log.read_text()
                time.sleep(0.01)
            else:
                return connection

    def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = self.connect()
        try:
            return ask(connection, method, path, body, **headers)
        finally:
            connection.close()

    def predict(self, x: Array, program: str | None = None, model: str = "toy") -> Array:
        body = b"".join(bytes(part) for part in encode_calls([Call("a", {"x": x}, program)]))
        path = f"/v1/models/{model}:predict"
        status, _, answer = self.ask("POST", path, body, **{"Content-Type": CONTENT_TYPE})
        assert status == 200, answer
        (result,) = decode_results(answer)
        assert isinstance(result, Result)
        (output,) = result.outputs.values()
        return output

    def stop(self) -> int:
        """SIGTERM; the exit status. The whole process group is gone afterwards."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return response.status, dict(response.getheaders()), response.read()


Start = Callable[..., Server]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    servers: list[Server] = []
    folder = tmp_path_factory.mktemp("function")
    (folder / "main.py").write_text(textwrap.dedent(MAIN))

    def start_one(in_folder: Path = folder, port: int | None = None, **environ: str) -> Server:
        servers.append(Server(in_folder, port or free_port(), **environ))
        return servers[-1]

    yield start_one
    for server in servers:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="module")
def server(start: Start) -> Server:
    return start(MAAS_MAX_REQUEST_BYTES="1000000")


def rows(count: int) -> Array:
    return np.arange(count * 2, dtype=np.float32).reshape(count, 2)


def test_first_request_waits_for_the_load(start: Start) -> None:
    """A request that comes while the model loads is answered when it is there."""
    server = start(LOAD_S="0.5")
    np.testing.assert_array_equal(server.predict(rows(3)), rows(3) * 2)


def test_loading_starts_in_the_child_before_any_request(start: Start) -> None:
    """The worker begins to load right after the fork, and the master never loads."""
    server = start()
    state = ""
    while state != "AVAILABLE":  # asking for the status does not start a load
        _, _, body = server.ask("GET", "/v1/models/toy")
        state = json.loads(body)["model_version_status"][0]["state"]
    assert server.log.read_text().count("loading forked=True") == 1
    assert server.stop() == 0
    assert "engine closed" in server.log.read_text()


def test_load_error_is_told_to_every_caller(start: Start) -> None:
    """When loading failed, each request hears the original error, and the log has it once."""
    server = start(LOAD_ERROR="weights.safetensors: expected sha256 a, found b")
    asked = [("POST", "/v1/models/toy:predict"), ("GET", "/v2/health/ready")] * 2
    for method, path in asked:
        status, _, body = server.ask(method, path, b'{"instances": [[1, 2]]}')
        assert status == 500
        assert json.loads(body) == {
            "error": "weights.safetensors: expected sha256 a, found b",
            "code": "bundle_corrupt",
        }
    assert server.ask("GET", "/v2/health/live")[0] == 200
    assert server.stop() == 0
    assert server.log.read_text().count('"traceback"') == 1


def test_many_threads_one_process(server: Server) -> None:
    """32 clients at once each get the answers to their own questions."""

    def client(number: int) -> None:
        for step in range(5):
            x = rows(1 + step) + np.float32(100 * number)
            np.testing.assert_array_equal(server.predict(x), x * 2)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(client, range(32)))


def test_connection_is_kept(server: Server) -> None:
    """A connection serves one request after the other, refused ones too."""
    connection = server.connect()
    try:
        for content_type, expected in [("application/json", 200), ("image/png", 415)] * 2:
            status, headers, body = ask(
                connection,
                "POST",
                "/v1/models/toy:predict",
                b'{"instances": [[1, 2]]}',
                **{"Content-Type": content_type},
            )
            assert status == expected
            assert headers["Content-Length"] == str(len(body))
            assert headers["Content-Type"] == "application/json"
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path", "content_type", "body", "status", "code"),
    [
        ("POST", "/v1/models/other:predict", CONTENT_TYPE, b"", 404, "not_found"),
        ("POST", "/v1/models/other:predict", "application/json", b"{}", 404, "not_found"),
        ("POST", "/v1/models/toy/versions/2:predict", "application/json", b"{}", 404, "not_found"),
        ("POST", "/v1/models/toy:predict", CONTENT_TYPE, b"nonsense", 400, "malformed_frame"),
        ("POST", "/v1/models/toy:predict", "text/html", b"", 415, "unsupported_media_type"),
        ("PUT", "/v1/models/toy:predict", CONTENT_TYPE, b"", 405, "method_not_allowed"),
        ("GET", "/nowhere", "", None, 404, "not_found"),
        ("GET", "/", "", None, 404, "not_found"),
    ],
)
def test_refusals_over_http(
    server: Server, method: str, path: str, content_type: str, body: Any, status: int, code: str
) -> None:
    """The framework passes every path and method on; the refusals arrive as the core wrote them."""
    found, _, answer = server.ask(method, path, body, **{"Content-Type": content_type})
    assert (found, json.loads(answer)["code"]) == (status, code)


def test_escaped_path_is_decoded_once(server: Server) -> None:
    """The path reaches the endpoint as it came: an escaped slash does not become a separator."""
    body = b'{"instances": [[1, 2]]}'
    assert server.ask("POST", "/v1/models/t%6Fy:predict", body)[0] == 200
    status, _, answer = server.ask("POST", "/v1/models/toy%2Fversions%2F1:predict", body)
    assert status == 404
    assert "Latest(toy/versions/1)" in json.loads(answer)["error"]


def test_body_over_the_limit(server: Server) -> None:
    """413, by the declared length before the body is read, or as soon as a chunked one is over."""
    for body in [
        b"x" * 1_000_001,
        (b"x" * 300_000 for _ in range(4)),
    ]:
        status, _, answer = server.ask("POST", "/v1/models/toy:predict", body)
        assert (status, json.loads(answer)["code"]) == (413, "too_large")
        assert "1000001 bytes or more, the limit is 1000000" in json.loads(answer)["error"]
    connection = server.connect()
    try:  # nothing of 2**40 bytes is waited for
        connection.putrequest("POST", "/v1/models/toy:predict")
        connection.putheader("Content-Length", str(2**40))
        connection.endheaders()
        assert connection.getresponse().status == 413
    finally:
        connection.close()


def test_chunked_body_is_read(server: Server) -> None:
    """A body without a declared length is as good as one with."""
    body = (part for part in (b'{"instances"', b": [[1, 2]]}"))
    status, _, answer = server.ask("POST", "/v1/models/toy:predict", body)
    assert (status, json.loads(answer)) == (200, {"predictions": [[2.0, 4.0]]})


def test_broken_chunks(server: Server) -> None:
    """A body that is not what its coding says is refused in JSON, as everything else is."""
    connection = server.connect()
    try:
        connection.putrequest("POST", "/v1/models/toy:predict")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders(b"no chunk\r\n\r\n")
        response = connection.getresponse()
        found = json.loads(response.read())
        assert (response.status, found["code"]) == (400, "malformed")
        assert "could not be read" in found["error"]
    finally:
        connection.close()


def test_empty_and_large_batches(server: Server) -> None:
    """No rows give no rows; a large answer arrives whole."""
    assert server.predict(rows(0)).shape == (0, 2)
    np.testing.assert_array_equal(server.predict(rows(100_000)), rows(100_000) * 2)


def test_head(server: Server) -> None:
    """HEAD is GET without the body."""
    status, headers, body = server.ask("HEAD", "/v2/health/live")
    assert (status, headers["Content-Type"], body) == (200, "application/json", b"")


def test_sigterm_lets_calls_finish(start: Start) -> None:
    """After SIGTERM the call in flight is answered, kept connections hear 503, exit is 0."""
    server = start()
    server.predict(rows(1))
    kept = server.connect()
    try:
        assert ask(kept, "GET", "/v2/health/ready")[0] == 200
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(server.predict, np.full((1, 2), 1.5, np.float32), "sleep")
            time.sleep(0.5)  # until it is surely in flight
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)  # until the worker surely has got it from the master
            status, _, body = ask(kept, "GET", "/v2/health/ready")
            assert (status, json.loads(body)["code"]) == (503, "not_ready")
            np.testing.assert_array_equal(slow.result(30), [[3, 3]])
    finally:
        kept.close()
    assert server.process.wait(30) == 0
    assert "engine closed" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_port_in_use(start: Start) -> None:
    """A second server on the port ends with a message that says so."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = start(port=taken.getsockname()[1])
        assert server.process.wait(60) != 0
    assert "in use" in server.log.read_text()


def test_without_a_fork_the_first_request_loads(start: Start) -> None:
    """Where nothing forks, as in the debug server and in tests, the first request starts it."""
    server = start()
    code = (
        "import functions_framework as f, sys\n"
        "app = f.create_app('predict', sys.argv[1])\n"
        "found = app.test_client().post('/v1/models/toy:predict', data=b'{\"inputs\": [[1, 2]]}')\n"
        "print(found.status_code, found.text)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(server.log.parent / "main.py")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "loading forked=False" in done.stdout
    assert '200 {"outputs": [[2.0, 4.0]]}' in done.stdout


def test_limits_from_environ() -> None:
    """The environment sets the limits; what is no number is refused by name."""
    assert EndpointLimits.from_environ({}) == EndpointLimits()
    found = EndpointLimits.from_environ(
        {"MAAS_MAX_REQUEST_BYTES": "10", "MAAS_READY_WAIT_S": "2.5"}
    )
    assert found == EndpointLimits(max_request_bytes=10, ready_wait_s=2.5)
    with pytest.raises(ConfigError, match="MAAS_MAX_REQUEST_BYTES and MAAS_READY_WAIT_S are num"):
        EndpointLimits.from_environ({"MAAS_MAX_REQUEST_BYTES": "32MB"})
