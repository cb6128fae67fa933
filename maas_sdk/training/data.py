"""Labelled examples in memory: splitting them, and handing them out in batches.

The rule it keeps: every order is a pure function of a seed (and, for shuffling, the epoch), never
of what was drawn before; a run that is stopped and taken up at epoch 7 sees epoch 7's order.

Dimension letters: N examples, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array

__all__ = ["Examples", "Split", "epoch_batches", "stratified_split"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """Inputs with their labels, row by row."""

    # [N, …]
    inputs: Array
    # integer[N], the class of each row.
    labels: Array

    def __post_init__(self) -> None:
        if self.labels.ndim != 1 or not np.issubdtype(self.labels.dtype, np.integer):
            raise InputError(
                f"labels: expected integers of shape [N], got {self.labels.dtype}"
                f"{list(self.labels.shape)}"
            )
        if self.inputs.shape[:1] != self.labels.shape:
            raise InputError(
                f"inputs and labels must have the same number of rows: "
                f"got inputs {list(self.inputs.shape)}, labels {list(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Array) -> Examples:
        """The examples at integer positions ``rows``, in their order."""
        return Examples(inputs=self.inputs[rows], labels=self.labels[rows])


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Examples to learn from, and examples held out to judge by; no row is in both."""

    train: Examples
    test: Examples


def stratified_split(examples: Examples, *, test_fraction: float, seed: int) -> Split:
    """Hold out a fraction of every class, at least one row of each and never all of them.

    Both parts come out in a shuffled order, the same for the same seed.

    Raises:
        ConfigError: ``test_fraction`` is not between 0 and 1.
        InputError: a class has a single example, so it cannot be in both parts.
    """
    if not 0.0 < test_fraction < 1.0:
        raise ConfigError(f"test_fraction: expected a number between 0 and 1, got {test_fraction}")
    generator = np.random.default_rng(seed)
    held_out: list[Array] = []
    kept: list[Array] = []
    for label in np.unique(examples.labels):
        rows = generator.permutation(np.flatnonzero(examples.labels == label))
        if len(rows) < 2:
            raise InputError(f"class {label} has one example; a split needs two or more")
        count = min(max(round(len(rows) * test_fraction), 1), len(rows) - 1)
        held_out.append(rows[:count])
        kept.append(rows[count:])
    return Split(
        train=examples.take(generator.permutation(np.concatenate(kept))),
        test=examples.take(generator.permutation(np.concatenate(held_out))),
    )


def epoch_batches(count: int, *, batch_size: int, seed: int, epoch: int) -> Iterator[Array]:
    """Row numbers of one epoch's batches, int64[B] each, in an order of ``(seed, epoch)``.

    Batches are all of one size, so that the step is compiled once: the ``count % batch_size`` rows
    at the end of the order sit this epoch out. Another epoch leaves out others.

    Raises:
        ConfigError: a batch is larger than the data.
    """
    if not 1 <= batch_size <= count:
        raise ConfigError(f"batch_size: expected 1 to {count} (the examples), got {batch_size}")
    order = np.random.default_rng((seed, epoch)).permutation(count)
    for start in range(0, count - batch_size + 1, batch_size):
        yield order[start : start + batch_size]
