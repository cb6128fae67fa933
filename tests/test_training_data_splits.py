from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.training.data import (
    Examples,
    Subset,
    fold_rows,
    hold_out,
    hold_out_rows,
    k_folds,
    stratified_rows,
    stratified_split,
)


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


@given(count=st.integers(2, 200), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_a_hold_out_keeps_every_row_once(count: int, fraction: float, seed: int) -> None:
    """Both parts have rows, together all of them, and the one held out has its fraction."""
    train, test = hold_out_rows(count, test_fraction=fraction, seed=seed)
    assert sorted([*train, *test]) == list(range(count))
    assert len(train) >= 1
    assert abs(len(test) - count * fraction) <= 1


def test_a_split_is_a_function_of_its_seed() -> None:
    """The same seed gives the same rows in the same order, another seed others."""
    data = examples([30, 30])
    for split in (stratified_split, hold_out):
        first, again, other = (
            split(data, test_fraction=0.2, seed=seed).test.inputs for seed in (3, 3, 4)
        )
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)


@given(
    counts=st.lists(st.integers(5, 30), min_size=1, max_size=5),
    k=st.integers(2, 5),
    seed=st.integers(0, 99),
    stratified=st.booleans(),
)
def test_each_row_is_held_out_by_exactly_one_fold(
    counts: list[int], k: int, seed: int, stratified: bool
) -> None:
    """Folds are of one size to within a row, and of one share of every class if stratified."""
    data = examples(counts)
    folds = k_folds(data, k=k, seed=seed, stratified=stratified)
    assert len(folds) == k
    assert sorted(np.concatenate([fold.test.inputs for fold in folds])) == list(range(len(data)))
    sizes = [len(fold.test) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for fold in folds:
        assert sorted([*fold.train.inputs, *fold.test.inputs]) == list(range(len(data)))
    if stratified:
        for label in range(len(counts)):
            shares = [int(np.sum(fold.test.labels == label)) for fold in folds]
            assert max(shares) - min(shares) <= 1


def test_a_subset_reads_the_rows_of_a_split() -> None:
    """Row numbers and the source they are of are a source again, read in the order asked for."""
    data = examples([10, 10])
    train, _ = stratified_rows(data.labels, test_fraction=0.5, seed=0)
    part = Subset(data, train)
    assert len(part) == 10
    np.testing.assert_array_equal(part.read(np.array([3, 0]))["inputs"], train[[3, 0]])
    assert part[3]["inputs"] == train[3]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 20, float("nan")])
def test_a_fraction_is_between_zero_and_one(fraction: float) -> None:
    """20 for 20 % is refused, not taken for something else."""
    for split in (stratified_split, hold_out):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            split(examples([3, 3]), test_fraction=fraction, seed=0)


def test_too_few_rows_cannot_be_split() -> None:
    """The message names the class, or says how many rows there are."""
    with pytest.raises(InputError, match="class 1 has one example"):
        stratified_split(examples([3, 1]), test_fraction=0.5, seed=0)
    with pytest.raises(InputError, match="two rows or more, got 1"):
        hold_out(examples([1]), test_fraction=0.5, seed=0)
    with pytest.raises(InputError, match="two rows or more, got 0"):
        stratified_split(examples([0]), test_fraction=0.5, seed=0)


def test_folds_need_rows() -> None:
    """More folds than rows, or than rows of a class, are refused with what is possible."""
    with pytest.raises(ConfigError, match=r"k: expected 2 to 4 folds .* got 5"):
        fold_rows(4, k=5, seed=0)
    with pytest.raises(ConfigError, match="got 1"):
        fold_rows(4, k=1, seed=0)
    with pytest.raises(
        InputError, match=r"class 1 has 3 examples, fewer than the 5 folds: .*k = 3"
    ):
        k_folds(examples([9, 3]), k=5, seed=0, stratified=True)
    with pytest.raises(InputError, match="expected 4 labels, got 3"):
        fold_rows(4, k=2, seed=0, labels=np.zeros(3, int))


def test_classes_are_integers() -> None:
    """Labels to regress on cannot be stratified; the message says what came."""
    data = Examples(inputs=np.zeros(4), labels=np.zeros(4, np.float32))
    with pytest.raises(
        InputError, match=r"a stratified split: .* integers of shape \[N\].* float32\[4\]"
    ):
        stratified_split(data, test_fraction=0.5, seed=0)
    with pytest.raises(InputError, match="stratified folds: expected labels that are integers"):
        k_folds(data, k=2, seed=0, stratified=True)
