"""Rows of a file as batches of the compiled size.

Dimension letters: G rows that are answered, b rows of the compiled batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np

from maas_sdk.tables.chunk import Chunk
from maas_sdk.tensors import Array

__all__ = ["Batcher", "cut"]


def cut(chunks: Iterable[Chunk], part_rows: int, finished: Collection[int] = ()) -> Iterator[Chunk]:
    """Yield chunks cut at the borders of parts, without rows of finished parts.

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
    """Gathers rows into batches of exactly b rows, in order; only the last one has fewer."""

    def __init__(self, bucket: int) -> None:
        self._bucket = bucket
        self._held: list[Mapping[str, Array]] = []
        self._rows = 0

    def add(self, inputs: Mapping[str, Array], rows: int) -> Iterator[Mapping[str, Array]]:
        """Take G rows, [G, …] by input; return the batches that are full now.

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
        """Yield the rows that did not fill a batch; nothing where there are none."""
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
