"""A model's life: loads once, keeps its error, drains."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import SimpleNamespace

import pytest

from maas_sdk.bundle.manifest import Manifest, Program
from maas_sdk.errors import (
    ConfigError,
    CorruptError,
    CredentialsError,
    MaasError,
    ModelError,
    NotFoundError,
    NotReadyError,
    StorageError,
    TransportError,
)
from maas_sdk.serve.host import ModelHost, State
from maas_sdk.tensors import Array, Signature
from tests.kit.engines import CheckingEngine


class FakeEngine(CheckingEngine):
    def __init__(self) -> None:
        one = Program(
            signature=Signature(inputs={}, outputs={}),
            weights=(),
            buckets=(1,),
            row_independent=True,
        )
        self.manifest = Manifest(name="toy", programs={"predict": one}, targets={})
        self.report = SimpleNamespace(tier="program", target=None, reason="a fake", timings_s={})
        self.closed = threading.Event()

    def run(self, inputs: Mapping[str, Array], *, program: str = "predict") -> dict[str, Array]:
        return dict(inputs)

    def close(self) -> None:
        self.closed.set()


def test_loads_once_for_many_callers() -> None:
    """However many callers come at once, the model is loaded once and all get the same engine."""
    loads: list[FakeEngine] = []

    def load() -> FakeEngine:
        loads.append(FakeEngine())
        return loads[-1]

    host = ModelHost(load)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: host.engine(30), range(64)))
    assert len(loads) == 1
    assert set(map(id, found)) == {id(loads[0])}
    assert (host.state, host.name) == (State.READY, "toy")


def test_waits_within_a_bound() -> None:
    """A caller waits for the load, not longer than it says, and not less than the load takes."""
    go = threading.Event()

    def load() -> FakeEngine:
        go.wait(30)
        return FakeEngine()

    host = ModelHost(load)
    assert host.state is State.LOADING
    with pytest.raises(NotReadyError, match="still loading") as caught:
        host.engine(0.01)
    assert caught.value.retry_after_s == 1
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(host.engine, 30)
        go.set()
        assert waiting.result(30).manifest.name == "toy"


def test_load_error_is_told_to_all() -> None:
    """Each caller gets an error of the original class and message, and none the same object."""
    original = CorruptError("weights.safetensors: expected sha256 a, found b", file="w")

    def load() -> FakeEngine:
        raise original

    host = ModelHost(load)
    seen = []
    for _ in range(3):
        with pytest.raises(CorruptError, match="expected sha256 a, found b") as caught:
            host.engine(30)
        assert caught.value.evidence == {"file": "w"}
        assert caught.value.__cause__ is original
        seen.append(caught.value)
    assert len(set(map(id, [*seen, original]))) == 4
    assert host.state is State.FAILED


@pytest.mark.parametrize("kind", [TransportError, ConfigError, CredentialsError, StorageError])
@pytest.mark.parametrize("probe", [False, True])
def test_what_may_pass_is_tried_again(probe: bool, kind: type[MaasError]) -> None:
    """Later, by a call or a probe of readiness; until then the error stands and nothing loads."""
    loads = []

    def load() -> FakeEngine:
        loads.append(time.monotonic())
        if len(loads) < 3:
            raise kind("gs://models: no answer, or not allowed")
        return FakeEngine()

    pause_s = 0.2
    host = ModelHost(load, load_again_after_s=pause_s)
    ends = time.monotonic() + 30
    errors = 0
    while len(loads) < 3 and time.monotonic() < ends:
        try:
            if probe:
                host.start()
                host.check()
            else:
                host.engine(30)
        except kind:
            errors += 1
        except NotReadyError:
            assert probe
    assert host.engine(30).manifest.name == "toy"
    assert host.state is State.READY
    assert errors > 1
    assert all(later - earlier >= pause_s for earlier, later in pairwise(loads))


def test_any_other_failure_stays() -> None:
    """What is wrong with the bundle is as wrong a moment later: it is loaded once."""
    loads = []

    def load() -> FakeEngine:
        loads.append(1)
        raise CorruptError("cut")

    host = ModelHost(load, load_again_after_s=0)
    for _ in range(3):
        with pytest.raises(CorruptError):
            host.engine(30)
        with pytest.raises(CorruptError):
            host.check()
    assert len(loads) == 1


def test_foreign_load_error_is_a_model_error(capsys: pytest.CaptureFixture[str]) -> None:
    """A foreign error keeps its class and message in a ModelError; its traceback is logged."""

    def load() -> FakeEngine:
        raise RuntimeError("no such device")

    host = ModelHost(load)
    with pytest.raises(ModelError, match="could not be loaded: RuntimeError: no such device"):
        host.engine(30)
    assert host._thread is not None
    host._thread.join()
    # Of this test: loads that an earlier one has left behind may end now.
    (line,) = [text for text in capsys.readouterr().err.splitlines() if "no such device" in text]
    assert json.loads(line)["severity"] == "ERROR"
    assert "RuntimeError: no such device" in json.loads(line)["traceback"]


def test_missing_bundle_is_not_the_callers_fault() -> None:
    """A load error whose class would mean 404 to a caller becomes a ModelError, its words kept."""

    def load() -> FakeEngine:
        raise NotFoundError("no bundle at model.maas", path="model.maas")

    with pytest.raises(ModelError, match=r"could not be loaded: no bundle at model\.maas"):
        ModelHost(load).engine(30)


def test_load_is_logged_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON line says which tier serves, why, and where the time went."""
    host = ModelHost(FakeEngine, name="logged")
    host.engine(30)
    assert host._thread is not None
    host._thread.join()
    (line,) = [text for text in capsys.readouterr().err.splitlines() if '"logged"' in text]
    found = json.loads(line)
    assert (found["severity"], found["model"], found["tier"]) == ("INFO", "logged", "program")
    assert {"seconds", "target", "reason", "timings_s"} <= found.keys()


def test_drain_lets_calls_finish() -> None:
    """Draining refuses new calls, waits for those in flight, then frees the engine."""
    engine = FakeEngine()
    host = ModelHost(lambda: engine)
    with ThreadPoolExecutor(1) as pool:
        with host.use(30):
            draining = pool.submit(host.drain, 30)
            while host.state is not State.DRAINING:
                pass
            with pytest.raises(NotReadyError, match="draining"):
                host.engine(30)
            assert not engine.closed.is_set()
        assert draining.result(30) is True
    assert engine.closed.is_set()
    with pytest.raises(NotReadyError, match="draining"), host.use(30):
        pass


def test_drain_is_bounded() -> None:
    """A call that does not end does not keep the drain; its engine is left alone."""
    engine = FakeEngine()
    host = ModelHost(lambda: engine)
    with host.use(30):
        assert host.drain(0.01) is False
    assert not engine.closed.is_set()


def test_drain_before_the_load() -> None:
    """A host that drains before it began never begins."""
    host = ModelHost(FakeEngine)
    assert host.drain(1) is True
    host.start()
    assert host._thread is None


def test_drain_wakes_waiters() -> None:
    """Callers that wait for the load are sent away when the server stops."""
    go = threading.Event()

    def load() -> FakeEngine:
        go.wait(30)
        return FakeEngine()

    host = ModelHost(load)
    host.start()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(host.engine, 30)
        assert host.drain(0.01) is False  # the load is still going on
        with pytest.raises(NotReadyError, match="draining"):
            waiting.result(30)
    go.set()


def test_server_that_stops_drains() -> None:
    """When the server around the host stops, new calls are refused."""
    stopping = False
    host = ModelHost(FakeEngine, is_stopping=lambda: stopping)
    host.engine(30)
    stopping = True
    assert host.state is State.DRAINING
    with pytest.raises(NotReadyError, match="draining"):
        host.engine(30)


def test_engine_that_found_a_fault_in_itself_fails_for_every_caller() -> None:
    """Weights that prove to be changed after the load: no call is answered, and ready says so."""
    engine = FakeEngine()
    host = ModelHost(lambda: engine)
    host.engine(5)
    assert host.state is State.READY
    engine.fault = CorruptError("weights.safetensors: not the bytes that were sealed")
    assert host.state is State.FAILED
    for _ in range(2):
        with pytest.raises(CorruptError, match="not the bytes that were sealed"):
            host.check()
