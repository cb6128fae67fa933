"""Splits into training and held-out rows: hold-out, stratified, k-fold.

The rule it keeps: a split is a pure function of its seed; every row is in exactly one part, and no
part is empty. The functions that end in ``_rows`` give row numbers, for data that is not in memory:
``Subset(source, rows)`` reads a part.

``sklearn.model_selection`` draws other rows for the same seed, and its folds another dealing: the
published figures and every kept checkpoint were made with the rows that these functions hold out.

Dimension letters: N examples.
"""

from __future__ import annotations

import numpy as np

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array
from maas_sdk.training.data.examples import Examples, Split, class_labels

__all__ = [
    "fold_rows",
    "hold_out",
    "hold_out_rows",
    "k_folds",
    "stratified_rows",
    "stratified_split",
]


def hold_out_rows(count: int, *, test_fraction: float, seed: int) -> tuple[Array, Array]:
    """Hold out a fraction of ``count`` rows, at least one and never all of them.

    Returns:
        row numbers int64 of the part to learn from and of the part held out, each shuffled.

    Raises:
        ConfigError: ``test_fraction`` is not between 0 and 1.
        InputError: fewer than two rows.
    """
    _check_fraction(test_fraction)
    if count < 2:
        raise InputError(f"a split needs two rows or more, got {count}")
    held_out = min(max(round(count * test_fraction), 1), count - 1)
    order = np.random.default_rng(seed).permutation(count)
    return order[held_out:], order[:held_out]


def hold_out(examples: Examples, *, test_fraction: float, seed: int) -> Split:
    """Hold out a fraction of the rows, whatever their labels; see ``hold_out_rows``."""
    train, test = hold_out_rows(len(examples), test_fraction=test_fraction, seed=seed)
    return Split(train=examples.take(train), test=examples.take(test))


def stratified_rows(labels: Array, *, test_fraction: float, seed: int) -> tuple[Array, Array]:
    """Hold out a fraction of every class, at least one row of each and never all of them.

    Args:
        labels: integer[N], the class of each row.
        test_fraction: share of each class that is held out.
        seed: the same one gives the same rows in the same order.

    Returns:
        row numbers int64 of the part to learn from and of the part held out, each shuffled.

    Raises:
        ConfigError: ``test_fraction`` is not between 0 and 1.
        InputError: labels that are no classes; a class has a single example, so it cannot be in
            both parts.
    """
    _check_fraction(test_fraction)
    class_labels(labels, why="a stratified split")
    if len(labels) == 0:
        raise InputError("a split needs two rows or more, got 0")
    generator = np.random.default_rng(seed)
    held_out: list[Array] = []
    kept: list[Array] = []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        if len(rows) < 2:
            raise InputError(f"class {label} has one example; a split needs two or more")
        count = min(max(round(len(rows) * test_fraction), 1), len(rows) - 1)
        held_out.append(rows[:count])
        kept.append(rows[count:])
    return (
        generator.permutation(np.concatenate(kept)),
        generator.permutation(np.concatenate(held_out)),
    )


def stratified_split(examples: Examples, *, test_fraction: float, seed: int) -> Split:
    """Hold out a fraction of every class; see ``stratified_rows``."""
    train, test = stratified_rows(examples.labels, test_fraction=test_fraction, seed=seed)
    return Split(train=examples.take(train), test=examples.take(test))


def fold_rows(
    count: int, *, k: int, seed: int, labels: Array | None = None
) -> tuple[tuple[Array, Array], ...]:
    """Return K ways to hold out one k-th of the rows, each row held out exactly once.

    Args:
        count: N.
        k: folds, 2 to N.
        seed: the same one gives the same folds.
        labels: integer[N]; with them each fold has its share of every class, to within one row.

    Returns:
        for each fold, row numbers int64 to learn from and held out, each shuffled.

    Raises:
        ConfigError: fewer than two folds, or more than there are rows.
        InputError: labels that are no classes, another number of them than rows, or a class with
            fewer rows than folds: some folds would be without it.
    """
    if not 2 <= k <= count:
        raise ConfigError(f"k: expected 2 to {count} folds (the number of rows), got {k}")
    generator = np.random.default_rng(seed)
    dealt = generator.permutation(count)
    if labels is not None:
        class_labels(labels, why="stratified folds")
        if len(labels) != count:
            raise InputError(f"stratified folds: expected {count} labels, got {len(labels)}")
        classes, sizes = np.unique(labels, return_counts=True)
        if sizes.min() < k:
            few = int(sizes.argmin())
            raise InputError(
                f"class {classes[few]} has {sizes[few]} examples, fewer than the {k} folds: "
                f"take k = {max(sizes[few], 2)} at most, or folds without labels"
            )
        # Sorted by class, rows are dealt out like cards: a class's rows go round the folds, and
        # the next class goes on where it stopped, so that folds also are of one size.
        dealt = dealt[np.argsort(labels[dealt], kind="stable")]
    fold = np.empty(count, np.int64)
    fold[dealt] = np.arange(count) % k
    return tuple(
        (
            generator.permutation(np.flatnonzero(fold != held_out)),
            generator.permutation(np.flatnonzero(fold == held_out)),
        )
        for held_out in range(k)
    )


def k_folds(
    examples: Examples, *, k: int, seed: int, stratified: bool = False
) -> tuple[Split, ...]:
    """Return K splits of which each holds out another k-th of the rows; see ``fold_rows``."""
    labels = examples.labels if stratified else None
    return tuple(
        Split(train=examples.take(train), test=examples.take(test))
        for train, test in fold_rows(len(examples), k=k, seed=seed, labels=labels)
    )


def _check_fraction(test_fraction: float) -> None:
    if not 0.0 < test_fraction < 1.0:
        raise ConfigError(f"test_fraction: expected a number between 0 and 1, got {test_fraction}")
