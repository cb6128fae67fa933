"""Objects that arrive in a bucket: a real functions-framework process, CloudEvents over HTTP, and a
bucket's emulator in this process.
"""

from __future__ import annotations

import io
import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from maas_sdk.batch.config import BatchConfig
from maas_sdk.batch.event import FINALIZED, Arrived, EventConfig, answer, on_event
from maas_sdk.deploy.process import FunctionProcess
from maas_sdk.errors import ConfigError, TransportError
from maas_sdk.store.gcs import GcsObjects
from tests.kit import gcs as cloud

FUNCTION = Path(__file__).parent.parent / "functions" / "batch"
ROWS = 3000
X = np.random.default_rng(0).random((ROWS, 4), np.float32)
OPTIONS = BatchConfig(format="npz", part_rows=500)
CONFIG = EventConfig(output="gs://out/answers", options=OPTIONS)


class Bucket:
    """The running emulator, with the buckets ``in`` and ``out``."""

    def __init__(self, server: cloud.Gcs) -> None:
        self.server = server
        self.requests = server.requests
        # Whether all requests are refused.
        self.down = False
        server.status = lambda *_: 403 if self.down else None

    def put(self, name: str, data: bytes, bucket: str = "in") -> Arrived:
        """An object arrives; what its event would say."""
        objects = GcsObjects(bucket)
        before = objects.stat(name)
        info = objects.write(name, data, generation=before.generation if before else 0)
        assert info is not None
        return Arrived(bucket, name, info.generation)

    def names(self, under: str = "") -> dict[str, int]:
        """Objects of the bucket of answers below a prefix, with their generations."""
        found = GcsObjects("out").find(under)
        return {info.name.removeprefix(under): info.generation for info in found}

    def read(self, name: str) -> bytes:
        found = GcsObjects("out").read(name)
        assert found is not None
        return found[0]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """The emulator, which this process and its children take for Google's."""
    with cloud.gcs("in", "out") as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield Bucket(server)


@contextmanager
def function(bundle: Path, **environment: str) -> Iterator[FunctionProcess]:
    """``functions/batch`` as the cloud would run it."""
    chosen = {
        "FUNCTION_SIGNATURE_TYPE": "cloudevent",
        "MAAS_BUNDLE": str(bundle),
        "MAAS_OUTPUT": "gs://out/answers",
        "MAAS_FORMAT": "npz",
        "MAAS_PART_ROWS": "500",
        **environment,
    }
    with FunctionProcess(FUNCTION, target="batch", environment=chosen) as process:
        yield process


def send(process: FunctionProcess, arrived: Arrived, kind: str = FINALIZED) -> int:
    """The status that a CloudEvent in binary mode is answered with."""
    data = {**arrived._asdict(), "generation": str(arrived.generation), "size": "1"}
    headers = {
        "ce-id": "1",
        "ce-specversion": "1.0",
        "ce-type": kind,
        "ce-source": f"//storage.googleapis.com/projects/_/buckets/{arrived.bucket}",
        "ce-subject": f"objects/{arrived.name}",
        "Content-Type": "application/json",
    }
    status, _ = process.first_answer("/", [json.dumps(data).encode()], headers=headers)
    return status


def npy(x: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, x)
    return file.getvalue()


def check_answers(bucket: Bucket, arrived: Arrived, x: np.ndarray) -> None:
    """Every row once, right, and the last word said."""
    prefix = f"answers/{arrived.name}/{arrived.generation}/"
    parts = sorted(name for name in bucket.names(prefix) if name.startswith("part-"))
    found = [np.load(io.BytesIO(bucket.read(prefix + name))) for name in parts]
    assert np.concatenate([part["row"] for part in found]).tolist() == list(range(len(x)))
    weights = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_allclose(
        np.concatenate([part["y"] for part in found]), x @ weights, rtol=1e-5
    )
    assert json.loads(bucket.read(prefix + "done.json"))["rows"] == len(x)


def test_an_object_is_answered_once_however_often_its_event_comes(tiny_bundle, bucket):
    """The second event changes nothing; a new generation of the object has answers of its own."""
    arrived = bucket.put("day/1.npy", npy(X))
    with function(tiny_bundle) as process:
        assert send(process, arrived) == 200, process.log()
        check_answers(bucket, arrived, X)
        before, asked = bucket.names(), len(bucket.requests)
        assert send(process, arrived) == 200
        assert bucket.names() == before
        assert {method for method, _ in bucket.requests[asked:]} == {"GET"}
        assert not any("/o/day" in path for _, path in bucket.requests[asked:]), "read again"
        again = bucket.put("day/1.npy", npy(X[:10]))
        assert send(process, arrived) == 200
        assert send(process, again) == 200
        check_answers(bucket, again, X[:10])
        assert before.items() <= bucket.names().items()
        said = [event["message"] for _, event in process.events() if "message" in event]
    assert said[0].startswith(
        "3000 rows answered, 0 not, 6 files under gs://out/answers/day/1.npy/"
    )
    assert said[1:3] == ["nothing to do: its rows are answered"] * 2
    assert said[3].startswith("10 rows answered")


def test_an_event_whose_worker_died_is_taken_up(tiny_bundle, bucket):
    """The process is killed in the middle; the same event goes on behind its finished parts."""
    arrived = bucket.put("big.npy", npy(np.tile(X, (5, 1))))
    prefix = f"answers/big.npy/{arrived.generation}/"
    with function(tiny_bundle) as process, ThreadPoolExecutor() as pool:
        sent = pool.submit(send, process, arrived)
        while sum("part-" in name for name in bucket.names(prefix)) < 3:
            time.sleep(0.005)
            assert not sent.done()
        os.killpg(process.pid, signal.SIGKILL)
        assert isinstance(sent.exception(), TransportError)
    before = bucket.names(prefix)
    assert "done.json" not in before
    with function(tiny_bundle) as process:
        assert send(process, arrived) == 200, process.log()
    check_answers(bucket, arrived, np.tile(X, (5, 1)))
    assert before.items() <= bucket.names(prefix).items()


def test_what_is_no_input_is_left_alone(tiny_bundle, bucket):
    """Answers themselves, other kinds of files, other folders, other events: 200, and no work."""
    config = EventConfig(output="gs://in/answers", watched="day/", options=OPTIONS)
    for name in ("answers/day/1.npy", "day/notes.txt", "other/1.npy"):
        arrived = bucket.put(name, npy(X[:4]))
        asked = len(bucket.requests)
        assert answer(tiny_bundle, arrived, config).startswith("left alone")
        assert len(bucket.requests) == asked
    with function(tiny_bundle) as process:
        assert send(process, arrived, "google.cloud.storage.object.v1.deleted") == 200
        [(_, event)] = process.events()
    assert event["severity"] == "WARNING"
    assert "expected an event of type google.cloud.storage.object.v1.finalized" in event["message"]


def test_an_input_that_can_never_be_answered_is_over(tiny_bundle, bucket):
    """The reason is kept beside where the answers would be, and the event is not sent again."""
    arrived = bucket.put("cut.npy", npy(X)[:-5])
    said = answer(tiny_bundle, arrived, CONFIG)
    assert said.startswith(
        "cannot be answered: gs://in/cut.npy: float32[3000, 4] takes 48000 bytes"
    )
    [name] = bucket.names()
    assert json.loads(bucket.read(name))["error"] == said.removeprefix("cannot be answered: ")
    assert answer(tiny_bundle, arrived, CONFIG).startswith("nothing to do: it was found")


def test_an_object_that_is_gone_is_over(tiny_bundle, bucket):
    """Replaced before its event came: the newer one has an event of its own."""
    old = bucket.put("a.npy", npy(X))
    bucket.put("a.npy", npy(X[:5]))
    assert answer(tiny_bundle, old, CONFIG) == (
        "nothing to do: the object was deleted or replaced since"
    )
    assert bucket.names() == {}


def test_two_at_once_write_each_part_once(tiny_bundle, bucket):
    """The same event in two workers at the same time: one set of answers."""
    arrived = bucket.put("a.npy", npy(X))
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda _: answer(tiny_bundle, arrived, CONFIG), range(2)))
    assert all(words.startswith(("3000 rows answered", "nothing to do")) for words in said)
    check_answers(bucket, arrived, X)
    assert len(bucket.names()) == 6 + 2


def test_what_may_pass_is_sent_again(tiny_bundle, bucket):
    """No access, or a bundle that is not there: an error status, so that the event comes again."""
    arrived = bucket.put("a.npy", npy(X[:8]))
    with function(tiny_bundle) as process:
        bucket.down = True
        assert send(process, arrived) == 500
        bucket.down = False
        assert send(process, arrived) == 200
        errors = [event for _, event in process.events() if event["severity"] == "ERROR"]
    assert "grant this account roles/storage.objectViewer on the bucket" in errors[0]["message"]
    check_answers(bucket, arrived, X[:8])


def test_the_function_is_a_plain_one(monkeypatch):
    """functions-framework refuses callable objects; a missing output is said at start."""
    monkeypatch.delenv("MAAS_OUTPUT", raising=False)
    with pytest.raises(ConfigError, match="output"):
        on_event("model.maas")
    assert type(on_event("model.maas", CONFIG)) is type(lambda: 0)
