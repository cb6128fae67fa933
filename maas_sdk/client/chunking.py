"""Many rows or batches → calls of a good size, and the calls' answers → one answer per item.

A **part** is one call: some rows stacked, or one batch, or a piece of a batch that is too large.
A **chunk** is the parts of one request. ``Chunker`` is fed item by item and hands out chunks as
they fill; it looks at most one chunk ahead, so an endless stream of rows is fine. ``Collector`` is
fed the answers in the same order and hands out the items' answers, in order.

Nothing here does I/O or knows of it. B: rows of a call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from maas_sdk.client.inputs import ProgramInputs
from maas_sdk.errors import ConfigError, InputError, MaasError, TooLargeError
from maas_sdk.tensors import Array, dtype_name, packed_nbytes

__all__ = ["CallPart", "Chunker", "Collector", "Outputs", "framed_nbytes"]

Outputs = dict[str, Array]

# What a frame adds to a tensor's bytes: name, dtype, shape, map keys; and to a call. Generous.
_TENSOR_OVERHEAD_BYTES: Final = 256
_CALL_OVERHEAD_BYTES: Final = 256


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CallPart:
    """One call and the items that it answers."""

    # The items it covers: start ≤ item < stop.
    start: int
    stop: int
    # Each of shape [B, …] unless the input has no batch dimension.
    inputs: Mapping[str, Array]
    rows: int
    # True: each row is an item of its own, and so is each row of the answer.
    stacked: bool
    # First row within its item; above 0 only for the later pieces of a split item.
    first_row: int = 0
    # False: more pieces of the same item follow.
    last: bool = True

    def where(self) -> str:
        """Items, and rows of a split one, for messages."""
        if self.stacked:
            return f"rows {self.start}–{self.stop - 1}"
        if self.first_row or not self.last:
            return f"item {self.start}, rows {self.first_row}–{self.first_row + self.rows - 1}"
        return f"item {self.start}"


class Chunker:
    """Groups items into chunks.

    Args:
        of: whether an item is one row, of an input's shape without B, or a batch.
        signature: the program's inputs; None is enough as long as nothing has to be split.
        chunk_rows: a chunk that holds so many rows is full.
        max_rows: a batch of more rows is split; None for no such bound.
        max_bytes: a chunk's tensors with their framing take no more; larger batches are split.
        max_calls: parts in a chunk.
    """

    def __init__(
        self,
        *,
        of: Literal["rows", "batches"],
        signature: ProgramInputs | None,
        chunk_rows: int,
        max_rows: int | None,
        max_bytes: int,
        max_calls: int,
    ) -> None:
        if of not in ("rows", "batches"):
            raise ConfigError(f"of: expected 'rows' or 'batches', got {of!r}")
        if chunk_rows < 1:
            raise ConfigError(f"batch_rows: expected at least 1, got {chunk_rows}")
        self._stacks = of == "rows"
        self._signature = signature
        self._chunk_rows = chunk_rows if max_rows is None else min(chunk_rows, max_rows)
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._max_calls = max_calls
        self._items = 0
        self._parts: list[CallPart] = []
        # Rows of equal names, dtypes and shapes that will be stacked into one part.
        self._run: list[Mapping[str, Array]] = []
        self._rows = 0
        self._nbytes = 0

    def push(self, inputs: Mapping[str, Array]) -> Iterator[tuple[CallPart, ...]]:
        """Take the next item; return the chunks that are full now.

        Raises:
            InputError: the item is too large and cannot be split.
            TooLargeError: one row alone is over the byte limit.
        """
        rows = 1 if self._stacks else _count_rows(inputs, self._signature)
        # A row unlike those before it goes into a call of its own: the server can say what is
        # wrong with it, and the others are answered.
        joins = bool(self._run) and _kind(self._run[0]) == _kind(inputs)
        nbytes = _raw_nbytes(inputs) if joins else framed_nbytes(inputs)
        calls = len(self._parts) + bool(self._run)
        if calls and (
            self._rows + rows > self._chunk_rows
            or self._nbytes + nbytes > self._max_bytes
            or (calls >= self._max_calls and not joins)
        ):
            yield self._close()
            joins, nbytes = False, framed_nbytes(inputs)
        if self._stacks:
            self._push_row(inputs, nbytes, joins)
        elif nbytes > self._max_bytes or (self._max_rows is not None and rows > self._max_rows):
            pieces = self._split(inputs, rows)
            self._items += 1
            yield from ((piece,) for piece in pieces)
            return
        else:
            self._push_batch(inputs, rows)
        self._items += 1
        self._rows += rows
        self._nbytes += nbytes
        if self._rows >= self._chunk_rows:
            yield self._close()

    def finish(self) -> Iterator[tuple[CallPart, ...]]:
        """Take the end of the items; return the chunk that was not full, if any."""
        if self._parts or self._run:
            yield self._close()

    def _push_row(self, inputs: Mapping[str, Array], nbytes: int, joins: bool) -> None:
        if nbytes > self._max_bytes:
            raise TooLargeError(
                f"row {self._items}: takes {nbytes} bytes, a request may take "
                f"max_request_bytes={self._max_bytes}: raise it if the endpoint allows",
                nbytes=nbytes,
            )
        if not joins:
            self._close_run()
        self._run.append(inputs)

    def _push_batch(self, inputs: Mapping[str, Array], rows: int) -> None:
        item = self._items
        self._parts.append(
            CallPart(start=item, stop=item + 1, inputs=inputs, rows=rows, stacked=False)
        )

    def _close_run(self) -> None:
        run, self._run = self._run, []
        if not run:
            return
        self._parts.append(
            CallPart(
                start=self._items - len(run),
                stop=self._items,
                inputs={name: np.stack([row[name] for row in run]) for name in run[0]},
                rows=len(run),
                stacked=True,
            )
        )

    def _close(self) -> tuple[CallPart, ...]:
        self._close_run()
        chunk = tuple(self._parts)
        self._parts, self._rows, self._nbytes = [], 0, 0
        return chunk

    def _split(self, inputs: Mapping[str, Array], rows: int) -> list[CallPart]:
        """Split one batch by rows; inputs without a batch dimension go with every piece."""
        batched = self._signature.batched if self._signature else frozenset[str]()
        whole = {name: array for name, array in inputs.items() if name not in batched}
        by_row = {name: array for name, array in inputs.items() if name in batched}
        fixed_nbytes = framed_nbytes(whole) + _TENSOR_OVERHEAD_BYTES * len(by_row)
        row_nbytes = _raw_nbytes({name: array[:1] for name, array in by_row.items()})
        if not by_row or rows < 2 or fixed_nbytes + row_nbytes > self._max_bytes:
            raise TooLargeError(
                f"item {self._items}: takes {framed_nbytes(inputs)} bytes, a request may take "
                f"max_request_bytes={self._max_bytes}, and it cannot be split by rows: "
                + ("one row alone is over it" if by_row else "no input has a batch dimension"),
                nbytes=framed_nbytes(inputs),
            )
        size = max(1, (self._max_bytes - fixed_nbytes) // max(1, row_nbytes))
        size = size if self._max_rows is None else min(size, self._max_rows)
        return [
            CallPart(
                start=self._items,
                stop=self._items + 1,
                inputs=whole | {name: a[first : first + size] for name, a in by_row.items()},
                rows=min(size, rows - first),
                stacked=False,
                first_row=first,
                last=first + size >= rows,
            )
            for first in range(0, rows, size)
        ]


class Collector:
    """Joins the parts' answers, fed in order, into the items' answers."""

    def __init__(self) -> None:
        self._pieces: list[Outputs | MaasError] = []
        self._rows: list[int] = []

    def add(self, part: CallPart, outcome: Outputs | MaasError) -> Iterator[Outputs | MaasError]:
        """Take a part's outputs or its error; return the items that are complete now."""
        if not part.stacked:
            self._pieces.append(outcome)
            self._rows.append(part.rows)
            if part.last:
                yield from self.finish()
            return
        count = part.stop - part.start
        if not isinstance(outcome, MaasError):
            try:
                _check_rows(outcome, count)
            except InputError as error:
                outcome = error
        for row in range(count):
            if isinstance(outcome, MaasError):
                yield outcome
            else:
                yield {name: array[row] for name, array in outcome.items()}

    def finish(self) -> Iterator[Outputs | MaasError]:
        """Take the end of the pieces; return the item that they make up, if any."""
        pieces, self._pieces = self._pieces, []
        rows, self._rows = self._rows, []
        if pieces:
            yield _join(pieces, rows)


def _count_rows(inputs: Mapping[str, Array], signature: ProgramInputs | None) -> int:
    """Return B of a batch; 1 where no input has a batch dimension."""
    for name, array in inputs.items():
        if array.ndim and (signature is None or name in signature.batched):
            return len(array)
    return 1


def _raw_nbytes(inputs: Mapping[str, Array]) -> int:
    """Return the bytes of the tensors alone."""
    return sum(packed_nbytes(dtype_name(array.dtype), array.shape) for array in inputs.values())


def framed_nbytes(inputs: Mapping[str, Array]) -> int:
    """Return the bytes of a call in a frame, slightly over-estimated."""
    return _CALL_OVERHEAD_BYTES + _TENSOR_OVERHEAD_BYTES * len(inputs) + _raw_nbytes(inputs)


def _kind(inputs: Mapping[str, Array]) -> list[tuple[str, object, tuple[int, ...]]]:
    return sorted((name, array.dtype.str, array.shape) for name, array in inputs.items())


def _join(pieces: list[Outputs | MaasError], rows: list[int]) -> Outputs | MaasError:
    """Join the pieces' outputs as if the item had not been split; the first error if any."""
    whole: list[Outputs] = []
    for piece, count in zip(pieces, rows, strict=True):
        if isinstance(piece, MaasError):
            return piece
        if len(pieces) > 1:
            try:
                _check_rows(piece, count)
            except InputError as error:
                return error
        whole.append(piece)
    if len(whole) == 1:
        return whole[0]
    return {name: np.concatenate([piece[name] for piece in whole]) for name in whole[0]}


def _check_rows(outputs: Outputs, rows: int) -> None:
    for name, array in outputs.items():
        if array.shape[:1] != (rows,):
            raise InputError(
                f"output {name!r}: expected one row per input row, {rows}, got shape "
                f"{list(array.shape)}: send whole batches within the limits, "
                "predict_many(…, of='batches')",
                output=name,
            )
