"""The two ends of the wire together: the client against the real endpoint, under uvicorn.

Only the engine is a fake: a digits model without weights.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import uvicorn

from maas_sdk.bundle.manifest import Manifest, Program
from maas_sdk.client import Client
from maas_sdk.errors import InputError, NotFoundError, OverloadedError, TooLargeError
from maas_sdk.serve import Endpoint, EndpointLimits, ModelHost, asgi_app
from maas_sdk.tensors import Array, Signature, TensorSpec
from tests.kit.engines import CheckingEngine

ROOT = Path(__file__).parent.parent


class DigitsEngine(CheckingEngine):
    """image float32[B, 8, 8, 1] → logits float32[B, 10]: ten of its pixels."""

    def __init__(self) -> None:
        signature = Signature(
            inputs={"image": TensorSpec(dtype="float32", shape=(None, 8, 8, 1))},
            outputs={"logits": TensorSpec(dtype="float32", shape=(None, 10))},
        )
        half = Signature(
            inputs={"a": TensorSpec(dtype="bfloat16", shape=(None, 2))},
            outputs={"a": TensorSpec(dtype="bfloat16", shape=(None, 2))},
        )
        options: dict[str, Any] = {"weights": (), "buckets": (1, 64), "row_independent": True}
        self.manifest = Manifest(
            name="digits",
            programs={
                "predict": Program(signature=signature, **options),
                "half": Program(signature=half, **options),
            },
            targets={},
        )
        self.report = SimpleNamespace(
            tier="executable", target="cpu-test", reason="a fake", timings_s={}
        )
        self.errors: list[Exception] = []

    def run(self, inputs: Mapping[str, Array], *, program: str = "predict") -> dict[str, Array]:
        if self.errors:
            raise self.errors.pop()
        if program == "half":
            return {"a": inputs["a"]}
        return {"logits": expected(inputs["image"])}

    def close(self) -> None:
        pass


def expected(images: Array) -> Array:
    return np.ascontiguousarray(images.reshape(len(images), 64)[:, 10:20])


@pytest.fixture(scope="module")
def engine() -> DigitsEngine:
    return DigitsEngine()


@pytest.fixture(scope="module")
def url(engine: DigitsEngine) -> Iterator[str]:
    endpoint = Endpoint(
        ModelHost(lambda: engine, version="3"), EndpointLimits(max_request_bytes=2_000_000)
    )
    server = uvicorn.Server(
        uvicorn.Config(asgi_app(endpoint, threads=8), port=0, log_level="error", ws="none")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, "digits", max_request_bytes=1_900_000) as client:
        yield client


IMAGES = np.random.default_rng(0).random((5, 8, 8, 1), np.float32)


def test_arrays_named_and_bare(client: Client) -> None:
    """The input's name is found in the endpoint's own metadata."""
    np.testing.assert_array_equal(client.predict(IMAGES), expected(IMAGES))
    np.testing.assert_array_equal(client.predict({"image": IMAGES}), expected(IMAGES))
    assert client.predict(IMAGES[:0]).shape == (0, 10)  # type: ignore[union-attr]


def test_other_programs_and_dtypes(client: Client) -> None:
    """A program by name, its input found by name too, bfloat16 there and back."""
    x = np.ones((2, 2), ml_dtypes.bfloat16)
    found = client.predict(x, program="half")
    assert isinstance(found, np.ndarray)
    assert found.dtype == ml_dtypes.bfloat16


def test_the_servers_words_reach_the_caller(client: Client) -> None:
    """What is wrong with a call is said by the server, in the class and words of its side."""
    with pytest.raises(InputError, match=r"'image': expected dtype float32, got float64; convert"):
        client.predict([[1.0, 2.0]])
    with pytest.raises(InputError, match=r"a single row needs a batch dimension: x\[None\]"):
        client.predict(IMAGES[0])
    with pytest.raises(NotFoundError, match="no program 'nope'"):
        client.predict({"image": IMAGES}, program="nope")
    with pytest.raises(NotFoundError, match="999"):
        client.predict({"image": IMAGES}, version=999)


def test_many_rows_and_large_batches(client: Client, url: str) -> None:
    """Through the real limits of the endpoint: split below them, refused above."""
    images = np.random.default_rng(1).random((20_000, 8, 8, 1), np.float32)
    np.testing.assert_array_equal(client.predict(images), expected(images))
    found = np.stack(list(client.predict_many(images[:3000])))  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, expected(images[:3000]))
    with (
        Client(url, "digits") as careless,
        pytest.raises(TooLargeError, match="the limit is 2000000"),
    ):
        careless.predict(images)


def test_a_shed_call_is_sent_again(client: Client, engine: DigitsEngine) -> None:
    """Overload inside a frame is seen and retried."""
    engine.errors.append(OverloadedError("busy", retry_after_s=0.01))
    np.testing.assert_array_equal(client.predict({"image": IMAGES}), expected(IMAGES))
    assert not engine.errors


def test_the_example_runs(url: str) -> None:
    """examples/call_endpoint.py, as the README says, in a process of its own."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "call_endpoint.py", url, "digits"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "predict: (3, 8, 8, 1) → (3, 10)" in done.stdout
    assert "predict_many: 2000 rows" in done.stdout
    assert "as expected: input 'image': expected dtype float32, got bfloat16" in done.stdout


def test_the_example_says_what_is_wrong() -> None:
    """Nobody listens: one line, no traceback."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "call_endpoint.py", "ftp://nowhere"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("ConfigError: url: expected http://host")
