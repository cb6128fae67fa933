"""Labelled examples, and the interface that in-memory and lazily read data share.

The rule it keeps: data is rows. ``source.read(rows)`` gives the rows asked for, in that order, as
one array per name, and depends on nothing else; so orders, splits and samplings are plain arrays
of row numbers, worked out without touching the data.

Dimension letters: N examples, B rows of a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from maas_sdk.errors import InputError
from maas_sdk.tensors import Array

__all__ = [
    "Batch",
    "Examples",
    "Source",
    "Split",
    "Subset",
    "check_finite",
    "class_labels",
    "finite_rows",
    "row_chunks",
]

# "inputs" [B, …], "labels" [B, …], and what else a source has; every array has B rows.
Batch = dict[str, Array]

# Elements that are looked at together, so that a look at all data takes little memory.
_PIECE_ELEMENTS = 2**20


@runtime_checkable
class Source(Protocol):
    """Rows by number, usable as a ``grain.MapDataset.source``, which asks row by row."""

    def __len__(self) -> int:
        """Return the number N of rows."""
        ...

    def __getitem__(self, row: int) -> Batch:
        """Return one row without the batch dimension: ``{"inputs": […], "labels": […]}``."""
        ...

    def read(self, rows: Array) -> Batch:
        """Return the rows at ``rows``, int64[B], in that order."""
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
        # V is what NumPy calls bfloat16 and its kin.
        if self.inputs.dtype.kind not in "biufcV":
            raise InputError(
                f"inputs: expected numbers of shape [N, …], got {self.inputs.dtype}"
                f"{list(self.inputs.shape)}"
            )
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
        """Return the rows at ``rows``, int64[B], in their order: one copy out of each array."""
        return {"inputs": self.inputs[rows], "labels": self.labels[rows]}

    def take(self, rows: Array) -> Examples:
        """Return the examples at integer positions ``rows``, in their order."""
        return Examples(inputs=self.inputs[rows], labels=self.labels[rows])


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Training examples and held-out examples; no row is in both."""

    train: Examples
    test: Examples


@dataclass(frozen=True, slots=True)
class Subset:
    """Some rows of a source, as a source, such as a split of lazily read data."""

    source: Source
    # int64[M], row numbers of ``source``.
    rows: Array

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Batch:
        return self.source[int(self.rows[row])]

    @property
    def labels(self) -> Array:
        """Labels of all its rows, where the source has them as an attribute."""
        source: Any = self.source
        labels: Array = source.labels[self.rows]
        return labels

    def read(self, rows: Array) -> Batch:
        """Return the rows at ``rows`` of the subset, in their order."""
        return self.source.read(self.rows[rows])


def class_labels(labels: Array, *, why: str) -> Array:
    """Return ``labels``, refused unless they are classes.

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


def check_finite(source: Source) -> None:
    """Check the inputs of all rows for finite values, piece by piece.

    Raises:
        InputError: an input is NaN or infinite; the message says the first row that has one.
    """
    for start, inputs in row_chunks(source):
        finite_rows(inputs, first_row=start)


def finite_rows(inputs: Array, *, first_row: int, where: str = "inputs") -> Array:
    """Return inputs [B, …], refused unless all are finite.

    Args:
        inputs: any dtype; only floats can be otherwise.
        first_row: number of the first of them, for the message.
        where: what they are called in it.

    Raises:
        InputError: NaN or infinity, in the first row that the message names.
    """
    if inputs.dtype.kind in "fcV" and not np.isfinite(inputs).all():
        bad = np.argwhere(~np.isfinite(inputs))[0]
        raise InputError(
            f"{where}: expected finite numbers, got {inputs[tuple(bad)]} in row "
            f"{first_row + int(bad[0])}, element {bad[1:].tolist()}: leave such rows out, or fill "
            "them in first",
            row=first_row + int(bad[0]),
        )
    return inputs


def row_chunks(source: Source) -> Iterator[tuple[int, Array]]:
    """Yield (number of the first row, inputs [B, …]) of all rows in order, a few MiB at a time.

    Views where the data is in memory.
    """
    if len(source) == 0:
        return
    elements = max(int(np.prod(source[0]["inputs"].shape)), 1)
    size = max(_PIECE_ELEMENTS // elements, 1)
    for start in range(0, len(source), size):
        stop = min(start + size, len(source))
        if isinstance(source, Examples):
            yield start, source.inputs[start:stop]
        else:
            yield start, source.read(np.arange(start, stop))["inputs"]
