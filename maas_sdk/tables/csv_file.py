"""Rows of a csv file with a header, by RFC 4180: a quoted value may hold line breaks.

Every value is the number that its input takes, or the row is bad, with the column and what stands
there. Blocks in which all is well are read by arrow, at hundreds of megabytes per second; a block
that arrow refuses is read again row by row, which finds the rows at fault. Arrow's own stream
(``pyarrow.csv.open_csv``) is not used: it ends at the first bad value, and does not say where a
block began.

Dimension letters: N rows of a block.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from maas_sdk.errors import InputError
from maas_sdk.tables.arrow import arrow
from maas_sdk.tables.columns import Field, ReadOptions
from maas_sdk.tables.lines import blocks
from maas_sdk.tables.table import Piece, Table
from maas_sdk.tables.values import shown
from maas_sdk.tensors import Array, TensorSpec

__all__ = ["CsvFile"]

# A row longer than this, over several lines, is taken for a quote that was never closed.
_ROW_BYTES: Final = 2**20
# What the csv module says of such a row.
_OPEN: Final = "unexpected end of data"

# The values of a row, or why they cannot be taken.
_Fields = tuple[list[str], str | None]


class CsvFile(Table):
    """A .csv file, UTF-8, comma-separated, with a header. Keys are text.

    Empty lines are no rows.
    """

    def _open(self) -> None:
        arrow()
        self.names, self._header_bytes = _header(self.path)

    def select(
        self, specs: Mapping[str, TensorSpec], options: ReadOptions, *, chunk_rows: int
    ) -> Self:
        """Select columns as ``Table.select``; a chunk is a block of lines, not ``chunk_rows``."""
        try:
            return super().select(specs, options, chunk_rows=chunk_rows)
        except InputError as error:
            other = [mark for mark in ";\t|" if mark in self.names[0]]
            if len(self.names) > 1 or not other:
                raise
            raise InputError(
                f"{self.path}: expected commas between the names in its first line, found "
                f"{other[0]!r}: write the table with the delimiter ','",
                path=str(self.path),
            ) from error

    def _check(self) -> None:
        types: dict[str, Any] = {}
        for item in self.columns.fields:
            if len(item.columns) != item.size:
                raise InputError(
                    f"{self.path}: input {item.name!r} is {item.spec}: expected {item.size} "
                    f"columns of one number each, found {len(item.columns)}; --columns "
                    f"{item.name}=COLUMN,… names them",
                    path=str(self.path),
                )
            number = arrow().int64() if _is_whole(item) else arrow().float64()
            types.update(dict.fromkeys(item.columns, number))
        if self.columns.key is not None:
            types[self.columns.key] = arrow().string()
        self._convert = arrow().csv.ConvertOptions(
            column_types=types, include_columns=self.columns.names, null_values=[]
        )

    def _pieces(self, first: int) -> Iterator[Piece]:
        """Yield from the first row on, since only reading tells where a row begins."""
        del first
        row, tail = 0, b""
        for data, share in blocks(self.path, skip=self._header_bytes):
            block, tail = tail + data, b""
            piece = self._fast(row, block, share)
            if piece is None:
                found, tail = _rows(block, len(self.names))
                piece = self._slow(row, found, share)
            if piece.rows:
                yield piece
            row += piece.rows
        if tail:
            found, _ = _rows(tail, len(self.names), final=True)
            yield self._slow(row, found, 1.0)

    def _fast(self, first: int, block: bytes, share: float) -> Piece | None:
        """Parse a block without a flaw by arrow; return None where it may have one."""
        csv_module = arrow().csv
        try:
            table = csv_module.read_csv(
                arrow().BufferReader(block),
                read_options=csv_module.ReadOptions(
                    column_names=self.names, use_threads=False, block_size=len(block) + 1
                ),
                convert_options=self._convert,
            )
            columns = {name: table.column(name).to_numpy() for name in self.columns.names}
        except Exception:  # Whatever it is, the rows tell.
            return None
        rows = block.count(b"\n") + (not block.endswith(b"\n"))
        # Empty lines, or a quote that holds two lines together.
        if table.num_rows != rows:
            return None
        # Arrow takes a quote that is still open at the end for a whole value.
        last = block[block.rstrip().rfind(b"\n") + 1 :]
        if b'"' in last and _fields(last, len(self.names))[1]:
            return None
        key = self.columns.key
        if key is not None:
            if columns[key].dtype.kind != "O" or not all(columns[key]):
                return None
            if any(key in item.columns for item in self.columns.fields):
                return None  # Read as text, and needed as numbers too.
        return Piece(first, rows, columns, {}, share)

    def _slow(self, first: int, rows: list[_Fields], share: float) -> Piece:
        """Parse the block row by row, each of them good or bad."""
        flaws = {place: flaw for place, (_, flaw) in enumerate(rows) if flaw}
        columns: dict[str, Any] = {}
        for item in self.columns.fields:
            for column in item.columns:
                columns[column] = self._numbers(column, rows, flaws, whole=_is_whole(item))
        if (key := self.columns.key) is not None:
            columns[key] = self._keys(key, rows, flaws)
        return Piece(first, len(rows), columns, flaws, share)

    def _numbers(
        self, column: str, rows: list[_Fields], flaws: dict[int, str], *, whole: bool
    ) -> list[int | float | None]:
        at, found = self.names.index(column), []
        for place, (fields, _) in enumerate(rows):
            number = None
            if place not in flaws:
                number = _number(fields[at], whole=whole)
                if number is None:
                    flaws[place] = _no_number(column, fields[at], whole=whole)
            found.append(number)
        return found

    def _keys(self, key: str, rows: list[_Fields], flaws: dict[int, str]) -> Array:
        """Return the rows' keys, [N] of text; empty where there is none."""
        at = self.names.index(key)
        found = [fields[at] if len(fields) > at else "" for fields, _ in rows]
        for place, text in enumerate(found):
            if not text:
                flaws.setdefault(place, f"key {key!r} is empty")
        return np.array(found, object)


def _is_whole(item: Field) -> bool:
    return item.spec.dtype.startswith(("int", "uint"))


def _number(text: str, *, whole: bool) -> int | float | None:
    """Parse a value as a number; None where it is none, Python's underscores included."""
    for kind in (int, float) if whole else (float,):
        try:
            return kind(text) if "_" not in text else None
        except ValueError:
            pass
    return None


def _no_number(column: str, text: str, *, whole: bool) -> str:
    if not text.strip():
        return f"column {column!r} is empty"
    kind = "an integer" if whole else "a number"
    return f"column {column!r}: expected {kind}, found {shown(text)}"


def _rows(block: bytes, width: int, *, final: bool = False) -> tuple[list[_Fields], bytes]:
    """Return the rows of a block, and the beginning of an unfinished last one.

    A quote that is never closed, or whose row does not have ``width`` values, is the flaw of its
    line alone: the line behind it is a row again.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _ROW_BYTES))
    lines = [line + b"\n" for line in block.split(b"\n")]
    found: list[_Fields] = []
    at = 0
    while at < len(lines):
        fields, used = _fields(lines[at], width), 1
        if fields[1] and fields[1].endswith(_OPEN):
            rest = (lines[n].decode("utf-8", "surrogateescape") for n in range(at, len(lines)))
            reader = csv.reader(rest, strict=True)
            try:
                values = next(reader)
            except csv.Error as error:
                tail = b"".join(lines[at:])[:-1]
                if str(error) == _OPEN and not final and len(tail) <= _ROW_BYTES:
                    return found, tail
            else:
                if len(values) == width:
                    fields, used = _as_text(values), reader.line_num
        if lines[at].strip():
            found.append(fields)
        at += used
    return found, b""


def _fields(line: bytes, width: int) -> _Fields:
    """Return the values of a line."""
    try:
        [values] = csv.reader(
            [line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")], strict=True
        )
    except (csv.Error, ValueError) as error:
        return [], f"not a line of csv: {error}"
    if len(values) != width and _as_text(values)[1] is None:
        return values, f"expected {width} values, found {len(values)}; is the line cut?"
    return _as_text(values)


def _as_text(values: list[str]) -> _Fields:
    """Return the values if all their bytes were UTF-8."""
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return [], "the line is not UTF-8"
    return values, None


def _header(path: Path) -> tuple[list[str], int]:
    """Return names in the first row of a csv, and the bytes that it takes."""
    try:
        with path.open("rb") as file:
            lines = file.read(_ROW_BYTES).split(b"\n")
        text = [
            lines[0].decode("utf-8-sig"),
            *(line.decode(errors="replace") for line in lines[1:]),
        ]
        reader = csv.reader((line + "\n" for line in text), strict=True)
        if not (names := next(reader)):
            raise ValueError("the first line is empty")
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path}: cannot be read as a csv in UTF-8 with names in its first line: {error}",
            path=str(path),
        ) from error
    return names, sum(len(line) + 1 for line in lines[: reader.line_num])
