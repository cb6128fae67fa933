"""Rows on their way through a batch prediction: chunks of what was read, batches of what is run.

The rule it keeps: every row of the input has a number, from 0, and is in exactly one place at any
time: among the good rows of a chunk, or among its bad ones with a reason.

Dimension letters: N rows of a chunk, G good ones among them, b rows of the compiled batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from maas_sdk.tensors import Array

__all__ = ["BadRow", "Batcher", "Chunk", "chunk_of", "cut"]


class BadRow(NamedTuple):
    """A row that is not answered."""

    row: int
    # Its key, where it has one that could be read.
    key: str | int | None
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Rows of the input that follow one another."""

    # Number of the first row.
    first: int
    # N.
    rows: int
    # int64[G], the good rows' numbers, ascending.
    numbers: Array
    # [G] of integers or text; None: the numbers are the keys.
    keys: Array | None
    # By input of the program, [G, …] of its dtype.
    inputs: Mapping[str, Array]
    # Ascending by number.
    bad: tuple[BadRow, ...] = ()
    # How much of the input has been read when the chunk has, 0 to 1.
    share: float = 1.0

    @property
    def stop(self) -> int:
        """Number of the first row behind it."""
        return self.first + self.rows

    def part(self, start: int, stop: int) -> Chunk:
        """Its rows from number ``start`` to before ``stop``: views, no copies."""
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
    """A chunk of N rows some of which have flaws.

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
    """One key as a Python value; None where the row has none that could be read."""
    if keys is None:
        return None
    key: str | int | np.integer[Any] = keys[place]
    if isinstance(key, str):
        return str(key) or None
    return int(key)


def cut(chunks: Iterable[Chunk], part_rows: int, finished: Collection[int] = ()) -> Iterator[Chunk]:
    """Chunks none of which reaches over the border of a part; rows of finished parts are left out.

    Part k is the rows k · ``part_rows`` to before (k + 1) · ``part_rows``.
    """
    for chunk in chunks:
        start = chunk.first
        while start < chunk.stop:
            index = start // part_rows
            stop = min((index + 1) * part_rows, chunk.stop)
            if index not in finished:
                yield chunk.part(start, stop)
            start = stop


class Batcher:
    """Gathers rows to batches of exactly b rows, in their order; only the last one has fewer."""

    def __init__(self, bucket: int) -> None:
        self._bucket = bucket
        self._held: list[Mapping[str, Array]] = []
        self._rows = 0

    def add(self, inputs: Mapping[str, Array], rows: int) -> Iterator[Mapping[str, Array]]:
        """Take G rows, [G, …] by input; give the batches that are full now.

        A batch out of the middle of the rows is a view of them.
        """
        start = 0
        while self._rows + rows - start >= self._bucket:
            stop = start + self._bucket - self._rows
            self._hold(inputs, start, stop)
            yield self._joined()
            start = stop
        if start < rows:
            self._hold(inputs, start, rows)

    def rest(self) -> Iterator[Mapping[str, Array]]:
        """The rows that did not fill a batch, as a smaller one; nothing where there are none."""
        if self._rows:
            yield self._joined()

    def _hold(self, inputs: Mapping[str, Array], start: int, stop: int) -> None:
        self._held.append({name: array[start:stop] for name, array in inputs.items()})
        self._rows += stop - start

    def _joined(self) -> Mapping[str, Array]:
        held, self._held, self._rows = self._held, [], 0
        if len(held) == 1:
            return held[0]
        return {name: np.concatenate([part[name] for part in held]) for name in held[0]}
