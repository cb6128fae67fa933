"""Labelled examples, and the interface that in-memory and lazily read data share.

The rule it keeps: data is rows. ``source.read(rows)`` gives the rows asked for, in that order, as
one array per name, and depends on nothing else; so orders, splits and samplings are plain arrays
of row numbers, worked out without touching the data.

Dimension letters: N examples, B rows of a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from maas_sdk.errors import InputError
from maas_sdk.tensors import Array

__all__ = ["Batch", "Examples", "Source", "Split", "Subset", "check_finite", "class_labels"]

# "inputs" [B, …], "labels" [B, …], and what else a source has; every array has B rows.
Batch = dict[str, Array]

# Rows that are looked at together, so that checks take no memory of the data's size.
_CHUNK = 4096


@runtime_checkable
class Source(Protocol):
    """Rows by number. ``grain.MapDataset.source`` takes any of them: it asks row by row."""

    def __len__(self) -> int:
        """N."""
        ...

    def __getitem__(self, row: int) -> Batch:
        """One row, without the batch dimension: ``{"inputs": […], "labels": […]}``."""
        ...

    def read(self, rows: Array) -> Batch:
        """The rows at ``rows``, int64[B], in that order."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """Inputs with their labels, row by row, in memory."""

    # [N, …]
    inputs: Array
    # integer[N], the class of each row; or integers and floats [N, …]: tokens, soft targets [N, K],
    # values to regress on.
    labels: Array

    def __post_init__(self) -> None:
        if self.labels.ndim < 1 or self.labels.dtype.kind not in "iuf":
            raise InputError(
                "labels: expected integers of shape [N], the class of each row, or numbers of "
                f"shape [N, …], got {self.labels.dtype}{list(self.labels.shape)}"
            )
        if self.inputs.shape[:1] != self.labels.shape[:1]:
            raise InputError(
                f"inputs and labels must have the same number of rows: "
                f"got inputs {list(self.inputs.shape)}, labels {list(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> Batch:
        return {"inputs": self.inputs[row], "labels": self.labels[row]}

    def read(self, rows: Array) -> Batch:
        """The rows at ``rows``, int64[B], in their order: one copy out of each array."""
        return {"inputs": self.inputs[rows], "labels": self.labels[rows]}

    def take(self, rows: Array) -> Examples:
        """The examples at integer positions ``rows``, in their order."""
        return Examples(inputs=self.inputs[rows], labels=self.labels[rows])


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Examples to learn from, and examples held out to judge by; no row is in both."""

    train: Examples
    test: Examples


@dataclass(frozen=True, slots=True)
class Subset:
    """Some rows of a source, as a source: what a split of lazily read data is made of."""

    source: Source
    # int64[M], row numbers of ``source``.
    rows: Array

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Batch:
        return self.source[int(self.rows[row])]

    def read(self, rows: Array) -> Batch:
        """The rows at ``rows`` of the subset, in their order."""
        return self.source.read(self.rows[rows])


def class_labels(labels: Array, *, why: str) -> Array:
    """``labels`` again, if they are classes.

    Args:
        labels: integer[N].
        why: what needs classes; the message begins with it.

    Raises:
        InputError: they are no integers, or not one for each row.
    """
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(
            f"{why}: expected labels that are integers of shape [N], one class for each row, got "
            f"{labels.dtype}{list(labels.shape)}"
        )
    return labels


def check_finite(source: Source, *, where: str = "inputs") -> None:
    """Look at every row of a source's inputs, a few thousand at a time.

    Args:
        source: what to look at.
        where: how the message calls it.

    Raises:
        InputError: an input is NaN or infinite; the message says the first row that has one, and
            how many have.
    """
    bad: list[Array] = []
    for start, inputs in _chunks(source):
        # NumPy's error state is left alone: an overflow is no error here, just a closer look.
        if inputs.dtype.kind in "fcV" and not _all_finite(inputs):
            flat = np.isfinite(inputs).reshape(len(inputs), -1)
            bad.append(start + np.flatnonzero(~flat.all(axis=1)))
    if bad:
        rows = np.concatenate(bad)
        raise InputError(
            f"{where}: expected finite numbers, but row {rows[0]} has NaN or infinity "
            f"({len(rows)} of {len(source)} rows do): remove these rows or fill them in first",
            rows=rows,
        )


def _all_finite(inputs: Array) -> bool:
    """Whether all of [B, …] are finite."""
    return bool(np.isfinite(inputs).all())


def _chunks(source: Source) -> Iterator[tuple[int, Array]]:
    """(first row, inputs [≤ 4096, …]) of all rows, in order; views where they are in memory."""
    for start in range(0, len(source), _CHUNK):
        stop = min(start + _CHUNK, len(source))
        if isinstance(source, Examples):
            yield start, source.inputs[start:stop]
        else:
            yield start, source.read(np.arange(start, stop))["inputs"]
