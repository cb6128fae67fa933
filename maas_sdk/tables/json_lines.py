"""Rows of JSON lines: an object for each row, or the bare value for a single input.

A line is a row. What is wrong with it (no JSON, a field that is missing, text where numbers belong)
makes that row bad, and no other.

Dimension letters: N rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from maas_sdk.errors import InputError
from maas_sdk.tables.columns import NAMELESS, ReadOptions
from maas_sdk.tables.json_codec import decode_line
from maas_sdk.tables.lines import blocks, lines_of
from maas_sdk.tables.table import Piece, Table
from maas_sdk.tables.values import shown
from maas_sdk.tensors import Array, TensorSpec

__all__ = ["JsonLinesFile"]


class JsonLinesFile(Table):
    """A .jsonl file, whose first row gives the fields.

    Keys are text: a whole number under the key's name is written as its digits.
    """

    def select(
        self, specs: Mapping[str, TensorSpec], options: ReadOptions, *, chunk_rows: int
    ) -> Self:
        """Select fields as ``Table.select``; a chunk is a block of lines, not ``chunk_rows``."""
        self.names = self._names(specs, options)
        return super().select(specs, options, chunk_rows=chunk_rows)

    def _open(self) -> None:
        """Open without names, since later rows may have fields that the first row lacks."""

    def _check(self) -> None:
        """Check nothing here: values are checked row by row."""

    def _pieces(self, first: int) -> Iterator[Piece]:
        """Yield from the first row on, since only reading tells where a row begins."""
        del first
        row = 0
        for block, share in blocks(self.path):
            if lines := lines_of(block):
                yield self._piece(row, lines, share)
                row += len(lines)

    def _piece(self, first: int, lines: list[bytes], share: float) -> Piece:
        found = [_row(line, bare=self.names == [NAMELESS]) for line in lines]
        rows = [row for row, _ in found]
        flaws = {place: flaw for place, (_, flaw) in enumerate(found) if flaw}
        columns: dict[str, Any] = {}
        key = self.columns.key
        for column in [column for item in self.columns.fields for column in item.columns]:
            for place, row in enumerate(rows):
                if column not in row:
                    flaws.setdefault(place, f"field {column!r} is missing")
            columns[column] = [row.get(column) for row in rows]
        if key is not None:
            columns[key] = _keys(key, rows, flaws)
        return Piece(first, len(rows), columns, flaws, share)

    def _names(self, specs: Mapping[str, TensorSpec], options: ReadOptions) -> list[str]:
        """Return the fields of the first valid row, and the wanted ones that other rows have."""
        for block, _ in blocks(self.path):
            found = [_row(line, bare=len(specs) == 1) for line in lines_of(block)]
            rows = [row for row, flaw in found if not flaw]
            if not rows:
                continue
            if NAMELESS in rows[0] and len(rows[0]) == 1:
                return [NAMELESS]
            wanted = [name for name in specs if any(name in row for row in rows)]
            wanted += [column for columns in options.columns.values() for column in columns]
            wanted += [options.key] if options.key is not None else []
            return list(dict.fromkeys([*rows[0], *wanted]))
        raise InputError(
            f"{self.path}: expected a JSON object in each line, found no line that is one",
            path=str(self.path),
        )


def _row(line: bytes, *, bare: bool) -> tuple[dict[str, Any], str | None]:
    """Return a line's fields, or the reason why it has none; bad JSON is no exception here."""
    try:
        row = decode_line(line)
    except UnicodeDecodeError:
        return {}, "the line is not UTF-8"
    except (ValueError, RecursionError) as error:
        return {}, f"not JSON, is the line cut? {str(error)[:80]}"
    if isinstance(row, dict):
        return row, None
    if bare and not isinstance(row, str) and row is not None:
        return {NAMELESS: row}, None
    return {}, f"expected a JSON object, found {shown(row)}"


def _keys(name: str, rows: list[dict[str, Any]], flaws: dict[int, str]) -> Array:
    """Return the rows' keys, [N] of text; empty where there is none."""
    found = []
    for place, row in enumerate(rows):
        key = row.get(name)
        if isinstance(key, int) and not isinstance(key, bool):
            key = str(key)
        if not isinstance(key, str):
            text = f"is {shown(key)}, expected text or a whole number"
            flaws.setdefault(place, f"key {name!r} {text if name in row else 'is missing'}")
            key = ""
        found.append(key)
    return np.array(found, object)
