"""Computation of a batch prediction: chunks of rows in, parts of answers out.

The rule it keeps: a part is worked out from its own rows alone, in full batches of the best size
with at most one smaller at its end. So it is the same, bit for bit, whether the run before it was
killed or not.

Dimension letters: G rows that are answered, b rows of the compiled batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import numpy as np

from maas_sdk.batch.batcher import Batcher, cut
from maas_sdk.batch.parts import OutputPart
from maas_sdk.batch.progress import Meter
from maas_sdk.batch.row_counts import Sizes
from maas_sdk.tables.chunk import BadRow, Chunk
from maas_sdk.tensors import Array, Signature, dtype_from_name

__all__ = ["Run", "assemble"]

# Answers [B, …] by name to inputs [B, …] by name.
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


def assemble(
    chunks: Iterable[Chunk],
    run: Run,
    signature: Signature,
    sizes: Sizes,
    *,
    finished: Collection[int],
    meter: Meter,
) -> Iterator[OutputPart]:
    """Yield the parts of all rows, in their order, without those that are finished.

    Args:
        chunks: rows in their order.
        run: answers a batch.
        signature: of the program.
        sizes: of batches and parts.
        finished: numbers of parts that are there already.
        meter: is told of rows when they are answered.
    """
    part: _Open | None = None
    share = 0.0
    for whole in chunks:
        for chunk in cut([whole], sizes.part_rows, finished):
            index = chunk.first // sizes.part_rows
            if part is not None and index != part.index:
                yield part.close()
                part = None
            if part is None:
                part = _Open(index, run, signature, sizes)
            part.take(chunk)
            meter.add(
                chunk.rows, len(chunk.bad), stop=chunk.stop, share=whole.share, share_before=share
            )
        share = whole.share
    if part is not None:
        yield part.close()


class _Open:
    """A part that is not full yet."""

    def __init__(self, index: int, run: Run, signature: Signature, sizes: Sizes) -> None:
        self.index = index
        self._run = run
        self._batcher = Batcher(sizes.bucket)
        self._rows = self._answered = 0
        self._keys: list[Array] = []
        self._bad: list[BadRow] = []
        # Memory is taken when it is written to: a part that stays small costs little.
        self._outputs = {
            name: np.empty(
                (sizes.part_rows, *(size or 0 for size in spec.shape[1:])),
                dtype_from_name(spec.dtype),
            )
            for name, spec in signature.outputs.items()
        }

    def take(self, chunk: Chunk) -> None:
        """Take rows of the part, in their order."""
        self._rows += chunk.rows
        self._bad += chunk.bad
        self._keys.append(chunk.numbers if chunk.keys is None else chunk.keys)
        for batch in self._batcher.add(chunk.inputs, len(chunk.numbers)):
            self._answer(batch)

    def close(self) -> OutputPart:
        """Return the part, after answering the rows that waited for a full batch."""
        for batch in self._batcher.rest():
            self._answer(batch)
        return OutputPart(
            index=self.index,
            rows=self._rows,
            keys=np.concatenate(self._keys),
            outputs={name: array[: self._answered] for name, array in self._outputs.items()},
            bad=tuple(self._bad),
        )

    def _answer(self, batch: Mapping[str, Array]) -> None:
        rows = len(next(iter(batch.values())))
        for name, answer in self._run(batch).items():
            self._outputs[name][self._answered : self._answered + rows] = answer
        self._answered += rows
