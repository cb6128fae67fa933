from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.training.data import Examples, epoch_batches, stratified_split


def examples(counts: list[int]) -> Examples:
    """``counts[k]`` rows of class k; each row's input is its own number."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return Examples(inputs=np.arange(len(labels)), labels=labels)


@given(
    counts=st.lists(st.integers(2, 40), min_size=1, max_size=6),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_split_keeps_every_row_once_and_every_class_in_both(
    counts: list[int], fraction: float, seed: int
) -> None:
    """Nothing is lost, nothing is in both parts, and each class is held out in proportion."""
    data = examples(counts)
    split = stratified_split(data, test_fraction=fraction, seed=seed)
    rows = np.concatenate([split.train.inputs, split.test.inputs])
    assert sorted(rows) == list(range(len(data)))
    for label, count in enumerate(counts):
        held_out = int(np.sum(split.test.labels == label))
        assert 1 <= held_out <= count - 1
        assert abs(held_out - count * fraction) <= 1
    for part in (split.train, split.test):
        np.testing.assert_array_equal(part.labels, data.labels[part.inputs])


def test_a_split_is_a_function_of_its_seed() -> None:
    """The same seed gives the same rows in the same order, another seed others."""
    data = examples([30, 30])
    first, again, other = (
        stratified_split(data, test_fraction=0.2, seed=seed).test.inputs for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 20])
def test_a_fraction_is_between_zero_and_one(fraction: float) -> None:
    """20 for 20 % is refused, not taken for something else."""
    with pytest.raises(ConfigError, match="between 0 and 1"):
        stratified_split(examples([3, 3]), test_fraction=fraction, seed=0)


def test_a_class_of_one_cannot_be_split() -> None:
    """The message names the class."""
    with pytest.raises(InputError, match="class 1 has one example"):
        stratified_split(examples([3, 1]), test_fraction=0.5, seed=0)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (np.zeros(3), np.zeros(2, np.int32), r"inputs \[3\], labels \[2\]"),
        (np.zeros(3), np.zeros(3), r"expected integers of shape \[N\], got float64\[3\]"),
        (np.zeros(3), np.zeros((3, 1), np.int32), r"got int32\[3, 1\]"),
    ],
)
def test_examples_are_rows_with_labels(
    inputs: np.ndarray, labels: np.ndarray, message: str
) -> None:
    """Inputs and labels that do not belong together are refused at once."""
    with pytest.raises(InputError, match=message):
        Examples(inputs=inputs, labels=labels)


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


def test_an_epochs_order_depends_on_seed_and_epoch_alone() -> None:
    """Epoch 7 is the same whether or not epochs 1 to 6 were drawn, and differs from epoch 8."""

    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate([*epoch_batches(64, batch_size=8, seed=seed, epoch=epoch)]).tolist()

    assert order(1, 7) == order(1, 7)
    assert order(1, 7) != order(1, 8)
    assert order(1, 7) != order(2, 7)


@pytest.mark.parametrize("size", [0, 11])
def test_a_batch_is_of_the_data(size: int) -> None:
    """A batch larger than the data would never come; it is refused."""
    with pytest.raises(ConfigError, match="expected 1 to 10"):
        next(epoch_batches(10, batch_size=size, seed=0, epoch=1))
