"""Consecutive rows of a file: the good ones as arrays, the bad ones with a reason.

Every row of the file has a number, from 0, and is in exactly one place: among the good rows of a
chunk, or among its bad ones.

Dimension letters: N rows of a chunk, G good ones among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from maas_sdk.tensors import Array

__all__ = ["BadRow", "Chunk", "chunk_of"]


class BadRow(NamedTuple):
    """A row that cannot be used, and the reason."""

    row: int
    # Its key, where it has one that could be read.
    key: str | int | None
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Consecutive rows of the input."""

    # Number of the first row.
    first: int
    # N.
    rows: int
    # int64[G], the good rows' numbers, ascending.
    numbers: Array
    # [G] of integers or text; None: the numbers are the keys.
    keys: Array | None
    # By name, [G, …] of the dtype that was asked for.
    inputs: Mapping[str, Array]
    # Ascending by number.
    bad: tuple[BadRow, ...] = ()
    # How much of the file has been read when the chunk has, 0 to 1.
    share: float = 1.0

    @property
    def stop(self) -> int:
        """Number of the first row after it."""
        return self.first + self.rows

    def part(self, start: int, stop: int) -> Chunk:
        """Return its rows from number ``start`` to before ``stop``: views, no copies."""
        start, stop = max(start, self.first), min(stop, self.stop)
        if (start, stop) == (self.first, self.stop):
            return self
        low, high = np.searchsorted(self.numbers, (start, stop))
        return replace(
            self,
            first=start,
            rows=max(stop - start, 0),
            numbers=self.numbers[low:high],
            keys=None if self.keys is None else self.keys[low:high],
            inputs={name: array[low:high] for name, array in self.inputs.items()},
            bad=tuple(bad for bad in self.bad if start <= bad.row < stop),
        )


def chunk_of(
    first: int,
    rows: int,
    inputs: Mapping[str, Array],
    keys: Array | None,
    flaws: Mapping[int, str],
    *,
    share: float,
) -> Chunk:
    """Make a chunk of N rows, some of which have flaws.

    Args:
        first: number of its first row.
        rows: N.
        inputs: [N, …] each; what stands in flawed rows is never looked at.
        keys: [N], or None.
        flaws: place in the chunk → reason.
        share: of the input that has been read.
    """
    numbers = np.arange(first, first + rows, dtype=np.int64)
    if not flaws:
        return Chunk(first=first, rows=rows, numbers=numbers, keys=keys, inputs=inputs, share=share)
    good = np.ones(rows, bool)
    good[list(flaws)] = False
    return Chunk(
        first=first,
        rows=rows,
        numbers=numbers[good],
        keys=None if keys is None else keys[good],
        inputs={name: array[good] for name, array in inputs.items()},
        bad=tuple(
            BadRow(first + place, _key_at(keys, place), flaws[place]) for place in sorted(flaws)
        ),
        share=share,
    )


def _key_at(keys: Array | None, place: int) -> str | int | None:
    """Return one key as a Python value; None where the row has none that could be read."""
    if keys is None:
        return None
    key: str | int | np.integer[Any] = keys[place]
    if isinstance(key, str):
        return str(key) or None
    return int(key)
