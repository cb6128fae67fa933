"""A file of named columns as chunks of rows: the base of all kinds of tables.

A table that opens has the columns that are needed. What is wrong with single rows is found while
they are read, and is theirs alone. Memory holds a few chunks, however large the file is.

Dimension letters: N rows of a chunk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from maas_sdk.errors import InputError
from maas_sdk.tables.chunk import Chunk, chunk_of
from maas_sdk.tables.columns import ROW, ColumnMap, Field, ReadOptions, columns_of
from maas_sdk.tables.values import fit, fit_each
from maas_sdk.tensors import Array, TensorSpec

__all__ = ["Piece", "Table"]


class Piece(NamedTuple):
    """Columns of consecutive rows, as stored in the file."""

    # Number of the first row, and N.
    first: int
    rows: int
    # By column: an array [N, …]; or N Python objects, each of which may be wrong. Keys: an array.
    columns: Mapping[str, Array | Sequence[Any]]
    # Place in the piece → reason.
    flaws: dict[int, str]
    # How much of the file has been read.
    share: float


class Table(ABC):
    """A file of named columns: a ``RowSource`` once its columns are selected.

    Args:
        path: the file.

    Raises:
        InputError: it cannot be read, is cut or damaged.
        DependencyError: a package that reads it is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: int | None = None
        self.key = ROW
        # Of all columns, in the order of the file.
        self.names: list[str] = []
        self.columns = ColumnMap((), None)
        self.chunk_rows = 1
        self._finite = False
        self._open()

    def select(
        self, specs: Mapping[str, TensorSpec], options: ReadOptions, *, chunk_rows: int
    ) -> Self:
        """Choose the columns to read; return this table. Arguments and errors as ``open_table``."""
        self.columns = columns_of(self.path, self.names, specs, options)
        self.key = ROW if self.columns.key is None else self.columns.key
        self.chunk_rows, self._finite = chunk_rows, options.finite
        self._check()
        return self

    def read(self, first: int) -> Iterator[Chunk]:
        """Read as ``RowSource.read``."""
        for piece in self._pieces(first):
            yield self._chunk(piece)

    @abstractmethod
    def _open(self) -> None:
        """Find the names and, where the file says it, the number of rows."""

    @abstractmethod
    def _check(self) -> None:
        """Raise ``InputError`` if no row could be taken from the selected columns."""

    @abstractmethod
    def _pieces(self, first: int) -> Iterator[Piece]:
        """Yield the rows in their order, from number ``first`` on, or from before it."""

    def _chunk(self, piece: Piece) -> Chunk:
        inputs = {item.name: self._input(item, piece) for item in self.columns.fields}
        key = self.columns.key
        keys = None if key is None else np.asarray(piece.columns[key])
        return chunk_of(piece.first, piece.rows, inputs, keys, piece.flaws, share=piece.share)

    def _input(self, item: Field, piece: Piece) -> Array:
        """Return an input of the piece, [N, …]; any values in rows with flaws."""
        parts = [piece.columns[column] for column in item.columns]
        arrays = [part for part in parts if isinstance(part, np.ndarray)]
        if len(arrays) == len(parts):
            values = arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=1)
            try:
                return fit(item, values, piece.flaws, finite=self._finite)
            except InputError:
                pass  # Lists of another length: other pieces may be right, so rows are to blame.
        lists = [part.tolist() if isinstance(part, np.ndarray) else part for part in parts]
        each = lists[0] if len(lists) == 1 else [list(row) for row in zip(*lists, strict=True)]
        return fit_each(item, each, piece.flaws, finite=self._finite)
