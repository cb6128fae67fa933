"""Rows of a parquet file, a few at a time, or a row group at a time.

Types are the file's and are checked before its first row is read; a value that is missing, or a
list of another length, makes its row bad. Pages are held to their checksums where the writer left
some.

Dimension letters: N rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from maas_sdk.errors import InputError
from maas_sdk.tables.arrow import array_of, arrow, as_numbers, is_list, is_number, is_text
from maas_sdk.tables.chunk import Chunk
from maas_sdk.tables.table import Piece, Table
from maas_sdk.tensors import Array

__all__ = ["ParquetFile"]


class ParquetFile(Table):
    """A .parquet file. Keys are a column of integers or text.

    Attributes:
        ends: int64[G], the number of the row behind each row group.
        schema: arrow's.
    """

    def _open(self) -> None:
        read = arrow().parquet.ParquetFile
        try:
            # Not mapped, and not the whole row group at once.
            self._file = read(self.path, page_checksum_verification=True, memory_map=False)
            self.schema = self._file.schema_arrow
            metadata = self._file.metadata
            sizes = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        except Exception as error:
            raise _damaged(self.path, error) from error
        self.names = list(self.schema.names)
        self.ends: Array = np.cumsum(np.array(sizes, np.int64))
        if not sizes or min(sizes) < 0 or self.ends[-1] < 1:
            raise InputError(f"{self.path}: the table has no rows", path=str(self.path))
        self.rows = self._total = int(self.ends[-1])

    def _check(self) -> None:
        types = arrow().types
        for item in self.columns.fields:
            for name in item.columns:
                kind = self.schema.field(name).type
                inner = kind
                while is_list(inner) and len(item.columns) == 1:
                    inner = inner.value_type
                if not is_number(inner):
                    lists = ", or lists of numbers" if len(item.columns) == 1 else ""
                    raise _other_type(self.path, name, f"numbers{lists}", kind)
        if (key := self.columns.key) is not None:
            kind = self.schema.field(key).type
            if not (types.is_integer(kind) or is_text(kind)):
                raise _other_type(self.path, key, "integers or text", kind)

    def first(self, group: int) -> int:
        """Return the number of a row group's first row."""
        return int(self.ends[group - 1]) if group else 0

    def first_value(self, name: str) -> Any:
        """Return the value of a column in the first row, as Python's."""
        try:
            batch = next(self._file.iter_batches(batch_size=1, columns=[name], use_threads=False))
            return batch.column(name)[0].as_py()
        except Exception as error:
            raise _damaged(self.path, error) from error

    def group(self, group: int) -> Chunk:
        """Return a row group as one chunk. Not for two threads at once.

        Raises:
            InputError: it is damaged.
        """
        first = self.first(group)
        try:
            table = self._file.read_row_group(group, columns=self.columns.names, use_threads=False)
            if table.num_rows != self.ends[group] - first:
                raise EOFError(f"row group {group} has {table.num_rows} rows")
            return self._chunk(self._piece(first, table.combine_chunks()))
        except Exception as error:
            raise _damaged(self.path, f"from row {first} on: {error}") from error

    def _pieces(self, first: int) -> Iterator[Piece]:
        """Yield from the first row of a row group on."""
        group = int(np.searchsorted(self.ends, first, side="right"))
        row = self.first(group)
        try:
            batches = self._file.iter_batches(
                batch_size=self.chunk_rows,
                row_groups=range(group, len(self.ends)),
                columns=self.columns.names,
                use_threads=False,
            )
            for batch in batches:
                yield self._piece(row, batch)
                row += batch.num_rows
            if row != self._total:
                raise EOFError(f"rows {row} to {self._total} are not there")
        except Exception as error:
            raise _damaged(self.path, f"from row {row} on: {error}") from error

    def _piece(self, first: int, batch: Any) -> Piece:
        flaws: dict[int, str] = {}
        columns: dict[str, Any] = {}
        for item in self.columns.fields:
            for name in item.columns:
                column = as_numbers(_one(batch.column(name)))
                array = array_of(column)
                columns[name] = column.to_pylist() if array is None else array
        if (key := self.columns.key) is not None:
            columns[key] = _keys(key, _one(batch.column(key)), flaws)
        rows = batch.num_rows
        return Piece(first, rows, columns, flaws, (first + rows) / self._total)


def _one(column: Any) -> Any:
    """Return a column in one piece."""
    if not hasattr(column, "combine_chunks"):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _keys(name: str, column: Any, flaws: dict[int, str]) -> Array:
    """Return the chunk's keys, [N] of int64, uint64 or text."""
    found = column.to_pylist()
    for place, key in enumerate(found):
        if key is None:
            flaws[place] = f"key {name!r} is missing"
    missing: int | str = "" if is_text(column.type) else 0
    keys = [missing if key is None else key for key in found]
    if is_text(column.type):
        return np.array(keys, object)
    unsigned = arrow().types.is_unsigned_integer(column.type)
    return np.array(keys, np.uint64 if unsigned else np.int64)


def _other_type(path: Path, name: str, wanted: str, kind: Any) -> InputError:
    return InputError(f"{path}: column {name!r}: expected {wanted}, found {kind}", path=str(path))


def _damaged(path: Path, error: object) -> InputError:
    return InputError(
        f"{path}: cannot be read as parquet, it may be cut or damaged: {str(error)[:200]}",
        path=str(path),
    )
