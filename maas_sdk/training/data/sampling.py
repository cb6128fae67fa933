"""Sampling: the rows that an epoch draws, and their order.

The rule it keeps: an epoch's order is a pure function of the data's size, the seed and the epoch's
number, never of what was drawn before. So a position is one number, any epoch can be taken up at
any batch, and every host works out the same order for itself.

Dimension letters: N examples, R rows that an epoch draws (N unless said otherwise).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array
from maas_sdk.training.data.examples import class_labels

__all__ = [
    "Balanced",
    "EachOnce",
    "Nearby",
    "Sampling",
    "Weighted",
    "WithReplacement",
    "epoch_batches",
]


@runtime_checkable
class Sampling(Protocol):
    """Sampling method of an epoch's rows."""

    def epoch_rows(self, count: int, *, seed: int, epoch: int) -> Array:
        """Return row numbers of an epoch, int64[R] below ``count``; R is always the same.

        Args:
            count: N.
            seed: of the run.
            epoch: 1 for the first.

        Raises:
            ConfigError, InputError: the sampling does not fit ``count`` rows.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EachOnce:
    """Every row once in an epoch: sampling without replacement."""

    # False keeps the order of the data.
    shuffle: bool = True

    def epoch_rows(self, count: int, *, seed: int, epoch: int) -> Array:
        """Return a permutation of all rows, int64[N]."""
        if not self.shuffle:
            return np.arange(count)
        return np.random.default_rng((seed, epoch)).permutation(count)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Nearby:
    """Every row once, in a shuffled order that stays close to the file's, read by groups.

    The groups are shuffled, then the rows of ``together`` groups at a time. A batch so comes out of
    few groups, and each is decoded about once in an epoch; rows of one group, though, meet each
    other more often than chance would have it. Keep at least twice as many groups as ``together``.
    """

    # integer[N], the group of each row, such as ``ParquetRows.groups``.
    groups: Array
    # Groups whose rows are shuffled among one another.
    together: int = 4

    def __post_init__(self) -> None:
        class_labels(self.groups, why="sampling by groups")
        if self.together < 1:
            raise ConfigError(f"together: expected 1 or more groups, got {self.together}")

    def epoch_rows(self, count: int, *, seed: int, epoch: int) -> Array:
        """Return a permutation of all rows, int64[N]."""
        if len(self.groups) != count:
            raise InputError(
                f"groups: expected one for each of the {count} rows, got {len(self.groups)}"
            )
        generator = np.random.default_rng((seed, epoch))
        names, number = np.unique(self.groups, return_inverse=True)
        window = generator.permutation(len(names)) // self.together
        rows = generator.permutation(count)
        return rows[np.argsort(window[number[rows]], kind="stable")]


@dataclass(frozen=True, kw_only=True, slots=True)
class WithReplacement:
    """Uniform draws with replacement, as in the bootstrap."""

    # R; None is N.
    rows: int | None = None

    def __post_init__(self) -> None:
        _check_rows(self.rows)

    def epoch_rows(self, count: int, *, seed: int, epoch: int) -> Array:
        """Return R draws, int64[R]."""
        return np.random.default_rng((seed, epoch)).integers(count, size=self.rows or count)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Weighted:
    """Draws with replacement, row i with a probability in proportion to ``weights[i]``."""

    # float[N], each ≥ 0, not all 0.
    weights: Array
    # False draws a row at most once in an epoch; R must then be below the rows of weight > 0, or
    # the weights would decide no more than the order.
    replacement: bool = True
    # R; None is N.
    rows: int | None = None

    def __post_init__(self) -> None:
        _check_rows(self.rows)
        weights = self.weights
        if weights.ndim != 1 or weights.dtype.kind not in "iuf":
            raise InputError(
                "weights: expected numbers of shape [N], one for each row, got "
                f"{weights.dtype}{list(weights.shape)}"
            )
        bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
        if len(bad):
            raise InputError(
                f"weights: expected finite numbers ≥ 0, got {weights[bad[0]]} for row {bad[0]}"
            )
        if not weights.any():
            raise InputError("weights: expected one row or more with a weight over 0, got none")
        if not self.replacement:
            drawn = len(weights) if self.rows is None else self.rows
            possible = int(np.count_nonzero(weights))
            if drawn > possible:
                raise ConfigError(
                    f"rows: {drawn} draws without replacement, but only {possible} rows have a "
                    "weight over 0: draw fewer with rows=, or take replacement=True"
                )

    def epoch_rows(self, count: int, *, seed: int, epoch: int) -> Array:
        """Return R draws, int64[R]."""
        if len(self.weights) != count:
            raise InputError(
                f"weights: expected one for each of the {count} rows, got {len(self.weights)}"
            )
        chance = self.weights.astype(np.float64)
        drawn: Array = np.random.default_rng((seed, epoch)).choice(
            count, size=self.rows or count, replace=self.replacement, p=chance / chance.sum()
        )
        return drawn


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Balanced:
    """Every class equally often, whatever its share of the data.

    Not by chance: the order goes round the classes, so that any K draws in a row, from a multiple
    of K on, hold each of the K classes once. A class's rows come in cycles of shuffled order, none
    a second time before all came once; of a large class an epoch takes a part, each epoch another.
    """

    # integer[N], the class of each row.
    labels: Array
    # R; None is N. What is left over when K does not divide R falls to classes drawn by lot.
    rows: int | None = None

    def __post_init__(self) -> None:
        _check_rows(self.rows)
        class_labels(self.labels, why="balanced sampling")

    def epoch_rows(self, count: int, *, seed: int, epoch: int) -> Array:
        """Return R draws, int64[R]."""
        if len(self.labels) != count:
            raise InputError(
                f"labels: expected one for each of the {count} rows, got {len(self.labels)}"
            )
        generator = np.random.default_rng((seed, epoch))
        drawn = self.rows or count
        members = [np.flatnonzero(self.labels == label) for label in np.unique(self.labels)]
        rounds = -(-drawn // len(members))
        # [rounds, K]: a column for each class, then each round's classes in an order of its own.
        table = np.stack([_cycles(rows, rounds, generator) for rows in members], axis=1)
        return generator.permuted(table, axis=1).reshape(-1)[:drawn]


def epoch_batches(count: int, *, batch_size: int, seed: int, epoch: int) -> Iterator[Array]:
    """Yield row numbers of one epoch's batches, int64[B], in an order of ``(seed, epoch)``.

    Batches are all of one size, so that the step is compiled once: the ``count % batch_size`` rows
    at the end of the order sit this epoch out. Another epoch leaves out others.

    Raises:
        ConfigError: a batch is larger than the data.
    """
    if not 1 <= batch_size <= count:
        raise ConfigError(f"batch_size: expected 1 to {count} (the examples), got {batch_size}")
    order = EachOnce().epoch_rows(count, seed=seed, epoch=epoch)
    for start in range(0, count - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def _cycles(rows: Array, length: int, generator: np.random.Generator) -> Array:
    """Return int64[length]: ``rows`` in a shuffled order, again and again in others."""
    turns = -(-length // len(rows))
    return np.concatenate([generator.permutation(rows) for _ in range(turns)])[:length]


def _check_rows(rows: int | None) -> None:
    if rows is not None and rows < 1:
        raise ConfigError(f"rows: expected 1 or more draws in an epoch, got {rows}")
