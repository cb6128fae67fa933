"""Objects that arrive in a bucket: a real functions-framework process, CloudEvents over HTTP, and a
bucket's emulator in this process.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.storage import Storage

from maas_sdk.batch.config import BatchConfig
from maas_sdk.batch.event import FINALIZED, Arrived, EventConfig, answer, on_event
from maas_sdk.deploy.process import FunctionProcess
from maas_sdk.errors import ConfigError, TransportError

FUNCTION = Path(__file__).parent.parent / "functions" / "batch"
ROWS = 3000
X = np.random.default_rng(0).random((ROWS, 4), np.float32)
OPTIONS = BatchConfig(format="npz", part_rows=500)
CONFIG = EventConfig(output="gs://out/answers", options=OPTIONS)

logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
logging.getLogger("api").setLevel(logging.CRITICAL)


class Unmet(Exception):
    """A precondition does not hold."""


class Objects(Storage):
    """The emulator's objects, made only where none is when the request says so, as in Google's."""

    def __init__(self) -> None:
        super().__init__(use_memory_fs=True)
        self.only_new = False

    def create_file(self, bucket: str, name: str, *more: Any, **named: Any) -> Any:
        if self.only_new and name in self.objects.get(bucket, {}):
            raise Unmet
        return super().create_file(bucket, name, *more, **named)


class Bucket:
    """A running emulator: ``out`` and ``in``."""

    def __init__(self) -> None:
        self.objects = Objects()
        for name in ("in", "out"):
            buckets.create_bucket(name, self.objects)
        # (method, path) of all requests; whether all are refused.
        self.requests: list[tuple[str, str]] = []
        self.down = False
        self.lock = threading.RLock()

    def put(self, name: str, data: bytes, bucket: str = "in") -> Arrived:
        """An object arrives; what its event would say."""
        from google.cloud import storage

        blob = storage.Client().bucket(bucket).blob(name)
        blob.upload_from_string(data)
        blob.reload()
        return Arrived(bucket, name, blob.generation)

    def names(self, under: str = "") -> dict[str, str]:
        """Objects of the bucket of answers below a prefix, with their generations."""
        found = self.objects.objects.get("out", {})
        return {
            name.removeprefix(under): value["generation"]
            for name, value in found.items()
            if name.startswith(under)
        }

    def read(self, name: str) -> bytes:
        return self.objects.get_file("out", name)


class Handler(emulator.RequestHandler):
    def __init__(self, bucket: Bucket, *arguments: Any) -> None:
        self.bucket = bucket
        super().__init__(bucket.objects, *arguments)

    def _go(self, method: str) -> None:
        request = emulator.Request(self, method)
        with self.bucket.lock:
            self.bucket.requests.append((method, self.path))
            if self.bucket.down:
                self.send_error(403)
                return
            self.storage.only_new = request.query.get("ifGenerationMatch") == ["0"]
            # The emulator has one generation, and does not look which one is asked for.
            wanted = request.query.get("generation")
            if method == emulator.GET and wanted:
                name = request.path.rpartition("/o/")[2].replace("%2F", "/")
                try:
                    found = self.storage.get_file_obj("in", name)["generation"]
                except NotFound:
                    found = None
                if found != wanted[0]:
                    self.send_error(404)
                    return
            try:
                emulator.Router(self).handle(method)
            except Unmet:
                self.send_error(412)

    def do_GET(self) -> None:
        self._go(emulator.GET)

    def do_POST(self) -> None:
        self._go(emulator.POST)

    def do_PUT(self) -> None:
        self._go(emulator.PUT)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """The emulator, which this process and its children take for Google's."""
    found = Bucket()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, found))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_address[1]}")
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


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
    assert (
        "access is denied: the service account needs roles/storage.objectUser"
        in (errors[0]["message"])
    )
    check_answers(bucket, arrived, X[:8])


def test_the_function_is_a_plain_one(monkeypatch):
    """functions-framework refuses callable objects; a missing output is said at start."""
    monkeypatch.delenv("MAAS_OUTPUT", raising=False)
    with pytest.raises(ConfigError, match="output"):
        on_event("model.maas")
    assert type(on_event("model.maas", CONFIG)) is type(lambda: 0)
