"""Rows out of a csv file with a header.

The rule it keeps: a line is a row, and every value is the number that the program takes, or the row
is flawed with the column and what stands there. Blocks in which all is well are read by arrow, at
hundreds of megabytes per second; a block that arrow refuses is read again line by line, which
finds the rows at fault.

Dimension letters: N rows of a block.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from maas_sdk.batch.config import BatchConfig
from maas_sdk.errors import InputError
from maas_sdk.tables.arrow import arrow
from maas_sdk.tables.chunk import Chunk, chunk_of
from maas_sdk.tables.columns import ROW, layout_of
from maas_sdk.tables.lines import blocks, lines_of
from maas_sdk.tables.values import fit, fit_each, row_size, shown
from maas_sdk.tensors import Array, Signature, TensorSpec

__all__ = ["CsvFile"]


class CsvFile:
    """A .csv file, UTF-8, comma-separated, its first line the names: a ``Source``.

    Values with line breaks in them are not read. Keys are text.
    """

    def __init__(
        self, path: Path, signature: Signature, config: BatchConfig, *, chunk_rows: int
    ) -> None:
        """Arguments and errors are those of ``open_source``; a chunk is a block of lines."""
        del chunk_rows
        self._path = path
        self._finite = config.finite
        self._names, self._skip = _header(path)
        self._layout = layout = layout_of(path, self._names, signature, config)
        for name, columns in layout.columns.items():
            if len(columns) != row_size(layout.specs[name]):
                raise InputError(
                    f"{path}: input {name!r} is {layout.specs[name]}: expected "
                    f"{row_size(layout.specs[name])} columns of one number each, found "
                    f"{len(columns)}; --columns {name}=COLUMN,… names them",
                    path=str(path),
                )
        self.key = ROW if layout.key is None else layout.key
        self.rows: int | None = None
        pyarrow = arrow()
        types = {
            column: pyarrow.int64() if _is_whole(layout.specs[name]) else pyarrow.float64()
            for name, columns in layout.columns.items()
            for column in columns
        }
        if layout.key is not None:
            types[layout.key] = pyarrow.string()
        self._convert = pyarrow.csv.ConvertOptions(
            column_types=types, include_columns=layout.names, null_values=[]
        )

    def read(self, first: int) -> Iterator[Chunk]:
        """As ``Source.read``: always from the first row on."""
        row = 0
        for block, share in blocks(self._path, skip=self._skip):
            chunk = self._fast(row, block, share)
            if chunk is None:
                if not (lines := lines_of(block)):
                    continue
                chunk = self._slow(row, lines, share)
            yield chunk
            row += chunk.rows

    def _fast(self, first: int, block: bytes, share: float) -> Chunk | None:
        """A block without a flaw; None where it may have one."""
        csv_module = arrow().csv
        try:
            table = csv_module.read_csv(
                arrow().BufferReader(block),
                read_options=csv_module.ReadOptions(
                    column_names=self._names, use_threads=False, block_size=len(block) + 1
                ),
                convert_options=self._convert,
            )
            columns = {name: table.column(name).to_numpy() for name in self._layout.names}
        except Exception:  # whatever it is, the lines tell
            return None
        rows = block.count(b"\n") + (not block.endswith(b"\n"))
        if table.num_rows != rows:
            return None  # empty lines, or a quote that holds two together
        flaws: dict[int, str] = {}
        inputs = {}
        for name, parts in self._layout.columns.items():
            found = [columns[part] for part in parts]
            values = np.stack(found, axis=1)
            inputs[name] = fit(name, values, self._layout.specs[name], flaws, finite=self._finite)
        key = self._layout.key
        if key is not None and not all(columns[key]):
            return None
        keys = None if key is None else columns[key].astype(object)
        return chunk_of(first, rows, inputs, keys, flaws, share=share)

    def _slow(self, first: int, lines: list[bytes], share: float) -> Chunk:
        """A block line by line, each as good or bad as it is."""
        flaws: dict[int, str] = {}
        rows = []
        for place, line in enumerate(lines):
            fields, flaw = _fields(line, len(self._names))
            rows.append(fields)
            if flaw:
                flaws[place] = flaw
        at = {name: self._names.index(name) for name in self._layout.names}
        inputs = {}
        for name, parts in self._layout.columns.items():
            spec = self._layout.specs[name]
            values: list[Any] = []
            for place, fields in enumerate(rows):
                found: list[int | float] = []
                if place not in flaws:
                    for part in parts:
                        number = _number(fields[at[part]], _is_whole(spec))
                        if number is None:
                            flaws[place] = _no_number(part, fields[at[part]])
                            break
                        found.append(number)
                values.append(found[0] if len(parts) == 1 and found else found)
            inputs[name] = fit_each(name, values, spec, flaws, finite=self._finite)
        return chunk_of(first, len(rows), inputs, self._keys(rows, at, flaws), flaws, share=share)

    def _keys(
        self, rows: list[list[str]], at: dict[str, int], flaws: dict[int, str]
    ) -> Array | None:
        """The rows' keys, [N] of text; empty where there is none."""
        key = self._layout.key
        if key is None:
            return None
        found = [fields[at[key]] if len(fields) > at[key] else "" for fields in rows]
        for place, text in enumerate(found):
            if not text:
                flaws.setdefault(place, f"key {key!r} is empty")
        return np.array(found, object)


def _is_whole(spec: TensorSpec) -> bool:
    return spec.dtype.startswith(("int", "uint"))


def _number(text: str, whole: bool) -> int | float | None:
    """A field as a number; None where it is none. Python's own underscores count as none."""
    if "_" in text:
        return None
    try:
        return int(text) if whole else float(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return None


def _no_number(column: str, text: str) -> str:
    if not text.strip():
        return f"column {column!r} is empty"
    return f"column {column!r}: expected a number, found {shown(text)}"


def _fields(line: bytes, expected: int) -> tuple[list[str], str | None]:
    """The fields of a line, or why they cannot be taken."""
    try:
        [fields] = csv.reader([line.decode()], strict=True)
    except UnicodeDecodeError:
        return [], "the line is not UTF-8"
    except (csv.Error, ValueError) as error:
        return [], f"not a line of csv: {error}"
    if len(fields) != expected:
        return fields, f"expected {expected} values, found {len(fields)}; is the line cut?"
    return fields, None


def _header(path: Path) -> tuple[list[str], int]:
    """Names in the first line of a csv, and the bytes that it takes."""
    try:
        with path.open("rb") as file:
            line = file.readline(2**20)
        [names] = csv.reader([line.decode("utf-8-sig")], strict=True)
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path}: cannot be read as a csv in UTF-8 with names in its first line: {error}",
            path=str(path),
        ) from error
    return names, len(line)
