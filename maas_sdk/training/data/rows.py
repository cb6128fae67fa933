"""Foreign rows as a ``Source``: arrays by name, and random-access datasets of grain.

The rule it keeps: an element is a dict of arrays, the same names in each, and the names come out of
``read`` as they are.

Dimension letters: N examples, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from maas_sdk.errors import InputError
from maas_sdk.tensors import Array
from maas_sdk.training.data.examples import Batch, Examples, Source, Subset

__all__ = ["Arrays", "Elements", "as_source", "in_memory", "load"]


@dataclass(frozen=True, slots=True)
class Arrays:
    """Arrays by name, in memory: ``Examples`` with more than two names."""

    # [N, …] each.
    arrays: Mapping[str, Array]

    def __post_init__(self) -> None:
        sizes = {name: array.shape[:1] for name, array in self.arrays.items()}
        if not sizes or () in sizes.values() or len(set(sizes.values())) > 1:
            raise InputError(
                "expected one or more arrays of the same number of rows, got "
                + (", ".join(f"{k} {list(a.shape)}" for k, a in self.arrays.items()) or "none")
            )

        if "inputs" not in self.arrays:
            raise InputError(f"expected an array named 'inputs', got {sorted(self.arrays)}")

    def __len__(self) -> int:
        return len(self.arrays["inputs"])

    def __getitem__(self, row: int) -> Batch:
        return {name: array[row] for name, array in self.arrays.items()}

    def read(self, rows: Array) -> Batch:
        """Return the rows at ``rows``, int64[B], in their order."""
        return {name: array[rows] for name, array in self.arrays.items()}


@dataclass(frozen=True, slots=True)
class Elements:
    """Elements of a sequence, dicts of arrays or numbers, read one by one and stacked."""

    # A grain.MapDataset, or any object with ``len`` and an integer index.
    elements: Any

    def __len__(self) -> int:
        return len(self.elements)

    def __getitem__(self, row: int) -> Batch:
        element = self.elements[row]
        if not isinstance(element, Mapping) or "inputs" not in element:
            found = sorted(element) if isinstance(element, Mapping) else type(element).__name__
            raise InputError(
                f"row {row}: expected a dict with 'inputs' and, for what is learnt from, 'labels'; "
                f"got {found}"
            )
        return {name: np.asarray(value) for name, value in element.items()}

    def read(self, rows: Array) -> Batch:
        """Return the rows at ``rows``, int64[B], in their order.

        Raises:
            InputError: an element that is no dict, or that differs from the first one in names,
                dtype or shape.
        """
        elements = [self[int(row)] for row in rows]
        expected = _spec(elements[0])
        for row, element in zip(rows, elements, strict=True):
            if (found := _spec(element)) != expected:
                raise InputError(f"row {row}: expected {expected} as in row {rows[0]}, got {found}")
        return {name: np.stack([element[name] for element in elements]) for name in expected}


def as_source(data: object) -> Source:
    """Return data as a source of rows by number.

    Args:
        data: a ``Source`` itself, arrays by name, or a ``grain.MapDataset`` of dicts.

    Raises:
        InputError: anything else; a dataset without a length.
    """
    if isinstance(data, Mapping):
        return Arrays({name: np.asarray(array) for name, array in data.items()})
    if isinstance(data, grain.MapDataset):
        return Elements(data)
    if isinstance(data, Source):
        return data
    if isinstance(data, grain.IterDataset):
        raise InputError(
            "a grain.IterDataset has an order of its own and no row numbers: give the "
            "grain.MapDataset that it was made from, or iterate over it yourself"
        )
    raise InputError(
        "expected Examples, a Source, a dict of arrays or a grain.MapDataset of dicts, got a "
        f"{type(data).__name__}"
    )


def load(source: Source) -> Examples:
    """Load all rows of a source into memory."""
    batch = source.read(np.arange(len(source)))
    return Examples(inputs=batch["inputs"], labels=batch["labels"])


def in_memory(source: Source) -> bool:
    """Return True when reading rows is only a copy, not worth a thread of its own."""
    if isinstance(source, Subset):
        return in_memory(source.source)
    return isinstance(source, Examples | Arrays)


def _spec(element: Batch) -> dict[str, str]:
    """Return an element's names with dtype and shape, for messages."""
    return {name: f"{value.dtype}{list(value.shape)}" for name, value in element.items()}
