from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.training.online.replay import ReplayBuffer


def rows(begin: int, end: int) -> dict[str, np.ndarray]:
    numbers = np.arange(begin, end)
    return {"inputs": np.stack([numbers, -numbers], axis=1).astype(np.float32), "labels": numbers}


def contents(buffer: ReplayBuffer) -> list[int]:
    return buffer.get_state()["rows"]["labels"].tolist()


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 30), st.integers(0, 2**32)
)
def test_what_is_kept_does_not_depend_on_how_rows_came(
    sizes: list[int], capacity: int, seed: int
) -> None:
    """Cut into batches in any way, the same rows lie in the same places, with their labels."""
    cut, whole, single = (ReplayBuffer(capacity, seed=seed) for _ in range(3))
    begin = 0
    for size in sizes:
        cut.add(rows(begin, begin + size))
        begin += size
    whole.add(rows(0, begin))
    for row in range(begin):
        single.add(rows(row, row + 1))
    assert cut.seen == whole.seen == begin
    if begin:
        assert contents(cut) == contents(whole) == contents(single)
        assert len(set(contents(cut))) == len(cut) == min(begin, capacity)
        drawn = cut.draw(5, key=(1, 2))
        np.testing.assert_array_equal(drawn["inputs"][:, 0], drawn["labels"])


def test_every_row_is_kept_with_the_same_probability() -> None:
    """Over many seeds, rows early and late in the stream are found equally often."""
    found = np.zeros(100)
    for seed in range(2000):
        buffer = ReplayBuffer(10, seed=seed)
        buffer.add(rows(0, 100))
        found[contents(buffer)] += 1
    # 2000 · 10 / 100 = 200 each, standard deviation √(2000 · 0.1 · 0.9) = 13.4.
    assert np.abs(found - 200).max() < 5 * 13.4
    # Halves and quarters deviate less than single rows would if there were a trend.
    assert np.abs(found.reshape(4, 25).sum(axis=1) - 5000).max() < 5 * 13.4 * 5


def test_drawing_changes_nothing_and_is_told_by_its_key() -> None:
    """Same key, same rows; another key, others; without repeats while there are enough."""
    buffer = ReplayBuffer(50, seed=3)
    buffer.add(rows(0, 200))
    first = buffer.draw(20, key=(4, 1))["labels"]
    assert len(set(first)) == 20
    np.testing.assert_array_equal(buffer.draw(20, key=(4, 1))["labels"], first)
    assert set(buffer.draw(20, key=(4, 2))["labels"]) != set(first)
    assert len(buffer.draw(80, key=(0,))["labels"]) == 80


def test_the_state_carries_everything() -> None:
    """A buffer with the state of another goes on as that one would; neither holds the other's."""
    one, other = ReplayBuffer(20, seed=1), ReplayBuffer(20, seed=1)
    one.add(rows(0, 70))
    state = one.get_state()
    other.set_state(state)
    state["rows"]["labels"][:] = 0
    for buffer in (one, other):
        buffer.add(rows(70, 130))
    assert contents(one) == contents(other)


def test_what_does_not_belong_is_refused() -> None:
    """Capacity 0, unequal lengths, rows of another kind, drawing from nothing."""
    with pytest.raises(ConfigError, match="expected 1 row or more, got 0"):
        ReplayBuffer(0)
    buffer = ReplayBuffer(4)
    with pytest.raises(InputError, match="the replay buffer is empty"):
        buffer.draw(1, key=(0,))
    with pytest.raises(InputError, match="expected arrays with the same rows"):
        buffer.add({"inputs": np.zeros((3, 2)), "labels": np.zeros(2)})
    buffer.add(rows(0, 3))
    with pytest.raises(InputError, match=r"inputs float32\[2\], labels int64\[\], got inputs"):
        buffer.add({"inputs": np.zeros((3, 5), np.float32), "labels": np.zeros(3, np.int64)})
    assert buffer.seen == 3
