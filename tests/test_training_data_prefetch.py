from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from maas_sdk.errors import ConfigError
from maas_sdk.training.data import Batch, Batches, Examples, batches, prefetch

N = 40
DATA = Examples(inputs=np.arange(N, dtype=np.float32), labels=np.arange(N))


def run(**settings: Any) -> Batches:
    return batches(DATA, **{"batch_size": 8, "seed": 0, "epochs": 2, **settings})


def rows(batch: Any) -> list[int]:
    return np.asarray(batch["labels"]).tolist()


def prefetching() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("grain-thread-prefetch")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Any:
    yield
    gc.collect()
    assert prefetching() == []


def test_whoever_iterates_cannot_tell() -> None:
    """The same batches in the same order, placed on the devices, and then the end."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))

    def place(batch: Batch) -> dict[str, jax.Array]:
        return jax.device_put(batch, sharding)

    with prefetch(run(), place) as found:
        placed = list(found)
        assert next(found, None) is None
    assert [rows(batch) for batch in placed] == [rows(batch) for batch in run()]
    assert {array.sharding for batch in placed for array in batch.values()} == {sharding}


def test_the_position_is_of_the_batch_last_handed_out() -> None:
    """Not of those that wait: saved, it leads to the batch that comes next."""
    expected = [rows(batch) for batch in run()]
    for size in (1, 2, 7):
        ahead = threading.Event()
        seen: list[int] = []

        def place(batch: Batch, seen: list[int] = seen, ahead: Any = ahead) -> Batch:
            seen.append(1)
            if len(seen) >= 2:
                ahead.set()
            return batch

        with prefetch(run(), place, size=size) as found:
            assert found.get_state() == run().get_state()
            next(found)
            assert ahead.wait(10)
            state = found.get_state()
            assert state["next_index"] == 1
        other = run()
        other.set_state(state)
        assert [rows(batch) for batch in other] == expected[1:]
        with prefetch(run(), lambda batch: batch) as found:
            next(found)
            next(found)
            found.set_state(state)
            assert found.get_state() == state
            assert [rows(batch) for batch in found] == expected[1:]


def failing_at(number: int) -> Callable[[Batch], Batch]:
    placed: list[int] = []

    def place(batch: Batch) -> Batch:
        placed.append(1)
        if len(placed) == number:
            raise OSError(f"batch {number} cannot be placed")
        return batch

    return place


def test_an_error_comes_where_its_batch_would_have() -> None:
    """Batches before it come first, also those that waited; the position stays before it."""
    with prefetch(run(), failing_at(4), size=3) as found:
        before = [rows(next(found)) for _ in range(3)]
        assert before == [rows(batch) for batch, _ in zip(run(), range(3), strict=False)]
        for _ in range(2):
            # Asked again, it does not go on with the batch behind.
            with pytest.raises(OSError, match="batch 4 cannot be placed"):
                next(found)
        assert found.get_state()["next_index"] == 3
        # From there one can go on.
        found.set_state(found.get_state())
        assert rows(next(found)) == [rows(batch) for batch in run()][3]


def test_closed_means_no_thread() -> None:
    """With batches in waiting and the thread at work or blocked; twice is once."""
    found = prefetch(run(epochs=None), lambda batch: batch, size=1)
    next(found)
    assert len(prefetching()) == 1
    found.close()
    found.close()
    assert prefetching() == []
    with pytest.raises(ConfigError, match="closed: make new ones"):
        next(found)


def test_forgotten_means_no_thread() -> None:
    """What nobody holds any more ends its thread; none is started before it is asked."""
    found = prefetch(run(epochs=None), lambda batch: batch)
    assert prefetching() == []
    next(found)
    assert len(prefetching()) == 1
    del found
    gc.collect()
    assert prefetching() == []


class Plain:
    """The least that has a position: no ``close``, no end."""

    taken = 0

    def __next__(self) -> Batch:
        self.taken += 1
        return {"labels": np.array([self.taken])}

    def get_state(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def set_state(self, state: dict[str, Any]) -> None:
        self.taken = state["taken"]


def test_whatever_has_a_position_can_be_prefetched() -> None:
    """Batches of the user's own making, which know nothing of closing."""
    with prefetch(Plain(), rows) as found:
        assert [next(found), next(found)] == [[1], [2]]
        assert found.get_state() == {"taken": 2}


def test_a_batch_or_more_waits() -> None:
    """Size 0 would be no prefetch; it is refused."""
    with pytest.raises(ConfigError, match="size: expected 1 or more batches in waiting, got 0"):
        prefetch(run(), lambda batch: batch, size=0)
