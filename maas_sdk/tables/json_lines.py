"""Rows out of JSON lines: an object for each row, or the value itself for a program of one input.

The rule it keeps: a line is a row. What is wrong with it (no JSON, a field that is missing, text
where numbers belong) is said of that row, and the others are answered.

Dimension letters: N rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from maas_sdk.batch.config import BatchConfig
from maas_sdk.errors import InputError
from maas_sdk.tables.chunk import Chunk, chunk_of
from maas_sdk.tables.columns import ROW, ColumnMap, layout_of
from maas_sdk.tables.json_codec import decode_line
from maas_sdk.tables.lines import blocks, lines_of
from maas_sdk.tables.values import fit_each, shown
from maas_sdk.tensors import Array, Signature

__all__ = ["JsonLinesFile"]

# The value of a row that is one: JSON has no such name.
_BARE: Final = ""


class JsonLinesFile:
    """A .jsonl file: a ``Source``. Its first row says which fields there are.

    Keys are text: a whole number under the key's name is written as its digits.
    """

    def __init__(
        self, path: Path, signature: Signature, config: BatchConfig, *, chunk_rows: int
    ) -> None:
        """Arguments and errors are those of ``open_source``; a chunk is a block of lines."""
        del chunk_rows
        self._path = path
        self._finite = config.finite
        self._layout, self._bare = _layout(path, signature, config)
        self.key = ROW if self._layout.key is None else self._layout.key
        self.rows: int | None = None

    def read(self, first: int) -> Iterator[Chunk]:
        """As ``Source.read``: always from the first row on."""
        row = 0
        for block, share in blocks(self._path):
            if lines := lines_of(block):
                yield self._chunk(row, lines, share)
                row += len(lines)

    def _chunk(self, first: int, lines: list[bytes], share: float) -> Chunk:
        flaws: dict[int, str] = {}
        rows: list[dict[str, Any]] = []
        for place, line in enumerate(lines):
            row, flaw = _row(line, bare=self._bare)
            rows.append(row)
            if flaw:
                flaws[place] = flaw
        inputs = {name: self._input(name, rows, flaws) for name in self._layout.specs}
        keys = None if self._layout.key is None else _keys(self._layout.key, rows, flaws)
        return chunk_of(first, len(rows), inputs, keys, flaws, share=share)

    def _input(self, name: str, rows: list[dict[str, Any]], flaws: dict[int, str]) -> Array:
        """An input of the block's rows, [N, …]."""
        columns = self._layout.columns[name]
        values: list[Any] = []
        for place, row in enumerate(rows):
            missing = [column for column in columns if column not in row]
            if missing:
                flaws.setdefault(place, f"field {missing[0]!r} is missing")
            found = [row.get(column) for column in columns]
            values.append(found[0] if len(found) == 1 else found)
        return fit_each(name, values, self._layout.specs[name], flaws, finite=self._finite)


def _layout(path: Path, signature: Signature, config: BatchConfig) -> tuple[ColumnMap, bool]:
    """The layout that the first row which is one gives, and whether rows are bare values."""
    for block, _ in blocks(path):
        found = [_row(line, bare=len(signature.inputs) == 1) for line in lines_of(block)]
        rows = [row for row, flaw in found if not flaw]
        if not rows:
            continue
        if _BARE in rows[0] and len(rows[0]) == 1:
            bare = {**dict.fromkeys(signature.inputs, (_BARE,)), **config.columns}
            return layout_of(path, [_BARE], signature, replace(config, columns=bare)), True
        # A field that this row lacks, others may have.
        named = [name for name in signature.inputs if any(name in row for row in rows)]
        named += [column for columns in config.columns.values() for column in columns]
        names = dict.fromkeys([*rows[0], *named, *([config.key] if config.key else [])])
        return layout_of(path, list(names), signature, config), False
    raise InputError(
        f"{path}: expected a JSON object in each line, found no line that is one", path=str(path)
    )


def _row(line: bytes, *, bare: bool) -> tuple[dict[str, Any], str | None]:
    """A line as fields, or why it is not: JSON's nonsense is never an exception here."""
    try:
        row = decode_line(line)
    except UnicodeDecodeError:
        return {}, "the line is not UTF-8"
    except (ValueError, RecursionError) as error:
        return {}, f"not JSON, is the line cut? {str(error)[:80]}"
    if isinstance(row, dict):
        return row, None
    if bare and not isinstance(row, str) and row is not None:
        return {_BARE: row}, None
    return {}, f"expected a JSON object, found {shown(row)}"


def _keys(name: str, rows: list[dict[str, Any]], flaws: dict[int, str]) -> Array:
    """The rows' keys, [N] of text; empty where there is none."""
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
