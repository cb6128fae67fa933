"""Cold and warm calls of an endpoint elsewhere, told apart by what the endpoint says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from maas_sdk.deploy.deployed import measure_deployed
from maas_sdk.deploy.golden import FirstCall
from maas_sdk.errors import ConfigError, CredentialsError, ModelError, TransportError

START_S = 0.15


class Platform(ThreadingHTTPServer):
    """Scales to zero: an instance that is not there takes START_S to start."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.began: float | None = None
        self.says_its_age = True
        self.status = 200
        self.seen: list[tuple[str, str | None]] = []

    def sleep(self, idle_s: float) -> None:
        """What the measurement waits with: long enough, and the instance is gone."""
        if idle_s > 10:
            self.began = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Platform

    def answer(self, body: bytes) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        if self.server.began is None:
            self.server.began = time.monotonic()
            time.sleep(START_S)
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"]))[::-1])

    def do_GET(self) -> None:
        assert self.server.began is not None
        age = {"age_s": time.monotonic() - self.server.began} if self.server.says_its_age else {}
        self.answer(json.dumps({"maas": age}).encode())

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def platform() -> Iterator[Platform]:
    with Platform() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def call(answers: list[bytes]) -> FirstCall:
    return FirstCall(
        path="/v1/models/toy:predict", headers={"X": "y"}, body=(b"ab", b"c"), check=answers.append
    )


def test_a_start_costs_the_difference(platform: Platform) -> None:
    """Cold calls are told by the age of what answers; warm ones follow each of them."""
    answers: list[bytes] = []
    found = measure_deployed(
        f"{platform.url}/",
        call(answers),
        model="toy",
        headers={"Authorization": "Bearer t"},
        runs=3,
        warm_calls=2,
        sleep=platform.sleep,
    )
    assert (len(found.cold_s), len(found.met_warm_s), len(found.warm_s)) == (3, 0, 6)
    assert answers == [b"cba"] * 9
    assert found.start_s is not None
    assert START_S * 0.8 < found.start_s < START_S + 1
    paths = [path for path, _ in platform.seen]
    assert paths[:4] == [
        *("/v1/models/toy:predict", "/v1/models/toy/metadata"),
        *("/v1/models/toy:predict", "/v1/models/toy:predict"),
    ]
    assert {token for _, token in platform.seen} == {"Bearer t"}


def test_what_met_a_running_instance_is_not_cold(platform: Platform) -> None:
    """Idle for too short a time: the endpoint has been there for longer than the call took."""
    platform.began = time.monotonic() - 60
    found = measure_deployed(
        platform.url, call([]), model="toy", runs=2, idle_s=5, sleep=platform.sleep
    )
    assert (found.cold_s, len(found.met_warm_s), found.start_s) == ((), 2, None)


def test_what_does_not_say_its_age_is_not_called_cold(platform: Platform) -> None:
    """Unknown is not cold."""
    platform.says_its_age = False
    found = measure_deployed(platform.url, call([]), model="toy", runs=1, sleep=platform.sleep)
    assert found.cold_s == ()


def test_refusals_say_what_to_do(platform: Platform) -> None:
    """A private endpoint asks for a token; wrong answers and addresses stop the measurement."""
    platform.status = 403
    with pytest.raises(CredentialsError, match=r"answers 403: .* gcloud auth print-identity-token"):
        measure_deployed(platform.url, call([]), model="toy", sleep=platform.sleep)
    platform.status = 500
    with pytest.raises(ModelError, match=r"status 500: cba"):
        measure_deployed(platform.url, call([]), model="toy", sleep=platform.sleep)
    with pytest.raises(ConfigError, match="expected an address such as https"):
        measure_deployed("digits.example", call([]), model="toy", sleep=platform.sleep)
    with pytest.raises(TransportError, match="refused"):
        measure_deployed("http://127.0.0.1:9", call([]), model="toy", sleep=platform.sleep)
