"""Rows out of a parquet file, a few at a time.

The rule it keeps: types are the file's and are checked before its first row is read; a value that
is missing, or a list of another length, is the flaw of its row. Pages are held to their checksums
where the writer left some.

Dimension letters: N rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from maas_sdk.batch.config import BatchConfig
from maas_sdk.errors import InputError
from maas_sdk.tables.arrow import array_of, arrow, is_list, is_number, is_text
from maas_sdk.tables.chunk import Chunk, chunk_of
from maas_sdk.tables.columns import ROW, layout_of
from maas_sdk.tables.values import fit, fit_each
from maas_sdk.tensors import Array, Signature

__all__ = ["ParquetFile"]


class ParquetFile:
    """A .parquet file: a ``Source``. Keys are a column of integers or text."""

    def __init__(
        self, path: Path, signature: Signature, config: BatchConfig, *, chunk_rows: int
    ) -> None:
        """Arguments and errors are those of ``open_source``."""
        self._path = path
        self._chunk_rows = chunk_rows
        self._finite = config.finite
        read = arrow().parquet.ParquetFile
        try:
            # Not mapped, and not the whole row group at once.
            self._table = read(path, page_checksum_verification=True, memory_map=False)
            schema = self._table.schema_arrow
            metadata = self._table.metadata
            sizes = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        except Exception as error:
            raise _damaged(path, error) from error
        self._layout = layout_of(path, schema.names, signature, config)
        for name in self._layout.names:
            self._check_type(name, schema.field(name).type)
        # Row group g holds the rows self._ends[g - 1] to before self._ends[g].
        self._ends = np.cumsum(np.array(sizes, np.int64))
        self.rows: int | None = int(self._ends[-1]) if len(sizes) else 0
        if not self.rows:
            raise InputError(f"{path}: the table has no rows", path=str(path))
        self.key = ROW if self._layout.key is None else self._layout.key

    def read(self, first: int) -> Iterator[Chunk]:
        """As ``Source.read``: from the first row of a row group on."""
        total = self.rows or 0
        group = int(np.searchsorted(self._ends, first, side="right"))
        row = int(self._ends[group - 1]) if group else 0
        try:
            batches = self._table.iter_batches(
                batch_size=self._chunk_rows,
                row_groups=range(group, len(self._ends)),
                columns=self._layout.names,
                use_threads=False,
            )
            for batch in batches:
                yield self._chunk(row, batch, total)
                row += batch.num_rows
            if row != total:
                raise EOFError(f"rows {row} to {total} are not there")
        except InputError:
            raise
        except Exception as error:
            raise _damaged(self._path, f"from row {row} on: {error}") from error

    def _chunk(self, first: int, batch: Any, total: int) -> Chunk:
        flaws: dict[int, str] = {}
        rows = batch.num_rows
        keys = self._keys(batch, flaws)
        inputs = {
            name: self._input(name, [batch.column(column) for column in columns], flaws)
            for name, columns in self._layout.columns.items()
        }
        return chunk_of(first, rows, inputs, keys, flaws, share=(first + rows) / total)

    def _input(self, name: str, columns: list[Any], flaws: dict[int, str]) -> Array:
        """An input of the program, [N, …]."""
        spec = self._layout.specs[name]
        arrays = [array_of(column) for column in columns]
        whole = [array for array in arrays if array is not None]
        if len(whole) == len(columns):
            values = whole[0] if len(whole) == 1 else np.stack(whole, axis=1)
            try:
                return fit(name, values, spec, flaws, finite=self._finite)
            except InputError:
                pass  # lists of another length: whether of all rows is not known
        lists = [column.to_pylist() for column in columns]
        each = lists[0] if len(lists) == 1 else [list(row) for row in zip(*lists, strict=True)]
        return fit_each(name, each, spec, flaws, finite=self._finite)

    def _keys(self, batch: Any, flaws: dict[int, str]) -> Array | None:
        """The chunk's keys, [N] of int64, uint64 or text."""
        if self._layout.key is None:
            return None
        found = batch.column(self._layout.key).to_pylist()
        for place, key in enumerate(found):
            if key is None:
                flaws[place] = f"key {self._layout.key!r} is missing"
        kind = batch.column(self._layout.key).type
        missing: int | str = "" if is_text(kind) else 0
        keys = [missing if key is None else key for key in found]
        if is_text(kind):
            return np.array(keys, object)
        unsigned = arrow().types.is_unsigned_integer(kind)
        return np.array(keys, np.uint64 if unsigned else np.int64)

    def _check_type(self, name: str, kind: Any) -> None:
        """Refuse a column that no row of can be taken from."""
        if name == self._layout.key:
            right, wanted = arrow().types.is_integer(kind) or is_text(kind), "integers or text"
            inner = kind
        else:
            inner = kind
            while is_list(inner):
                inner = inner.value_type
            right, wanted = is_number(inner), "numbers, or lists of numbers"
        if not right:
            raise InputError(
                f"{self._path}: column {name!r}: expected {wanted}, found {kind}",
                path=str(self._path),
            )


def _damaged(path: Path, error: object) -> InputError:
    return InputError(
        f"{path}: cannot be read as parquet, it may be cut or damaged: {str(error)[:200]}",
        path=str(path),
    )
