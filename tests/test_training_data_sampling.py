from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.training.data import (
    Balanced,
    EachOnce,
    Nearby,
    Sampling,
    Weighted,
    WithReplacement,
    epoch_batches,
)

COUNT = 60
LABELS = np.repeat([0, 1, 2], [40, 15, 5])
SAMPLINGS: list[Sampling] = [
    EachOnce(),
    EachOnce(shuffle=False),
    WithReplacement(),
    WithReplacement(rows=17),
    Weighted(weights=np.arange(COUNT)),
    Weighted(weights=np.arange(COUNT), replacement=False, rows=17),
    Balanced(labels=LABELS),
    Balanced(labels=LABELS, rows=17),
    Nearby(groups=np.arange(COUNT) // 7, together=2),
]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_an_order_depends_on_seed_and_epoch_alone(sampling: Sampling) -> None:
    """Epoch 7 is the same in whatever order epochs are asked for, and unlike epoch 8."""

    def order(seed: int, epoch: int) -> list[int]:
        return sampling.epoch_rows(COUNT, seed=seed, epoch=epoch).tolist()

    first = order(1, 7)
    other, seed = order(1, 8), order(2, 7)
    assert order(1, 7) == first
    assert len(first) == len(other)
    assert set(first) <= set(range(COUNT))
    if sampling != EachOnce(shuffle=False):
        assert other != first
        assert seed != first


def test_each_once_is_a_permutation() -> None:
    """Without replacement, all rows come, each once; unshuffled, as they lie."""
    assert sorted(EachOnce().epoch_rows(COUNT, seed=0, epoch=1)) == list(range(COUNT))
    unshuffled = EachOnce(shuffle=False).epoch_rows(COUNT, seed=0, epoch=9)
    assert unshuffled.tolist() == list(range(COUNT))


def test_with_replacement_a_share_of_one_over_e_stays_out() -> None:
    """The bootstrap: of many rows, (1 − 1/N)^N ≈ 36.8 % are not drawn."""
    drawn = WithReplacement().epoch_rows(20_000, seed=0, epoch=1)
    assert len(drawn) == 20_000
    assert 1 - len(set(drawn)) / 20_000 == pytest.approx(np.exp(-1), abs=0.01)


def test_weights_are_the_proportions_of_the_draws() -> None:
    """Rows come as often as their weights say; a weight of 0 never comes."""
    weights = np.array([0.0, 1.0, 2.0, 5.0])
    drawn = Weighted(weights=weights, rows=80_000).epoch_rows(4, seed=0, epoch=1)
    share = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(share, weights / 8, atol=0.01)
    assert share[0] == 0


def test_weights_without_replacement_draw_no_row_twice() -> None:
    """Heavy rows are among those drawn, each once."""
    weights = np.where(np.arange(COUNT) < 10, 1000.0, 1.0)
    sampling = Weighted(weights=weights, replacement=False, rows=10)
    found = [sampling.epoch_rows(COUNT, seed=0, epoch=epoch) for epoch in range(1, 21)]
    assert all(len(set(rows)) == 10 for rows in found)
    assert np.mean([rows < 10 for rows in found]) > 0.9


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    rows=st.none() | st.integers(1, 200),
    seed=st.integers(0, 99),
)
def test_balanced_classes_come_in_turn(counts: list[int], rows: int | None, seed: int) -> None:
    """Any K draws from a multiple of K on are the K classes; no row twice before all came once."""
    labels = np.repeat(np.arange(len(counts)) * 7 - 3, counts)
    drawn = Balanced(labels=labels, rows=rows).epoch_rows(len(labels), seed=seed, epoch=1)
    assert len(drawn) == (rows or len(labels))
    classes = labels[drawn]
    for start in range(0, len(drawn) - len(counts) + 1, len(counts)):
        assert len(set(classes[start : start + len(counts)])) == len(counts)
    for label in np.unique(classes):
        times = np.bincount(drawn[classes == label], minlength=len(labels))[labels == label]
        assert times.max() - times.min() <= 1


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    together=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_rows_that_lie_together_stay_close(sizes: list[int], together: int, seed: int) -> None:
    """A permutation in which no more than ``together`` groups are open at any time."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    drawn = Nearby(groups=groups, together=together).epoch_rows(len(groups), seed=seed, epoch=1)
    assert sorted(drawn) == list(range(len(groups)))
    left = dict(enumerate(sizes))
    opened: set[int] = set()
    for group in groups[drawn].tolist():
        opened.add(group)
        assert len(opened) <= together
        left[group] -= 1
        if not any(left[one] for one in opened) and len(opened) == together:
            opened = set()
    assert not any(left.values())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Weighted(weights=np.array([1.0, -2.0])), InputError, "≥ 0, got -2.0 for row 1"),
        (lambda: Weighted(weights=np.array([np.nan, 1])), InputError, "got nan for row 0"),
        (lambda: Weighted(weights=np.zeros(3)), InputError, "a weight over 0, got none"),
        (lambda: Weighted(weights=np.ones((3, 1))), InputError, r"got float64\[3, 1\]"),
        (lambda: Weighted(weights=np.array(["a"])), InputError, r"got <U1\[1\]"),
        (
            lambda: Weighted(weights=np.array([1, 0, 1]), replacement=False),
            ConfigError,
            "3 draws without replacement, but only 2 rows have a weight over 0",
        ),
        (lambda: Nearby(groups=LABELS, together=0), ConfigError, "expected 1 or more groups"),
        (
            lambda: Nearby(groups=LABELS).epoch_rows(7, seed=0, epoch=1),
            InputError,
            "groups: expected one for each of the 7 rows, got 60",
        ),
        (lambda: WithReplacement(rows=0), ConfigError, "expected 1 or more draws"),
        (lambda: Balanced(labels=np.zeros(3)), InputError, "balanced sampling: expected labels"),
        (
            lambda: Balanced(labels=LABELS).epoch_rows(7, seed=0, epoch=1),
            InputError,
            "one for each of the 7 rows, got 60",
        ),
        (
            lambda: Weighted(weights=np.ones(2)).epoch_rows(7, seed=0, epoch=1),
            InputError,
            "one for each of the 7 rows, got 2",
        ),
    ],
)
def test_samplings_that_cannot_be(make: object, error: type[Exception], message: str) -> None:
    """Weights below 0, labels that are no classes and the like are refused in words."""
    with pytest.raises(error, match=message):
        make()  # type: ignore[operator]


@given(count=st.integers(1, 200), data=st.data())
def test_an_epoch_sees_each_row_at_most_once_in_batches_of_one_size(
    count: int, data: st.DataObject
) -> None:
    """Batches are full, without repetition, and fewer than one batch of rows is left out."""
    size = data.draw(st.integers(1, count))
    batches = list(epoch_batches(count, batch_size=size, seed=0, epoch=1))
    assert {len(batch) for batch in batches} == {size}
    rows = np.concatenate(batches)
    assert len(set(rows)) == len(rows) > count - size


@pytest.mark.parametrize("size", [0, 11])
def test_a_batch_is_of_the_data(size: int) -> None:
    """A batch larger than the data would never come; it is refused."""
    with pytest.raises(ConfigError, match="expected 1 to 10"):
        next(epoch_batches(10, batch_size=size, seed=0, epoch=1))
