"""Files of answers, named by part and job; and their writing.

The rule it keeps: part k holds the answers to rows k · R to before (k + 1) · R of the input, R rows
to a part, and its name holds k and the job's fingerprint. So the files that are there are the
ledger: nothing else has to be kept in step with them. Rows that were not answered are in a file of
JSON lines of the same number, which is written before its part.

Dimension letters: G rows that were answered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from maas_sdk.errors import ConfigError
from maas_sdk.tables.arrow import arrow, column_of
from maas_sdk.tables.chunk import BadRow
from maas_sdk.tables.json_codec import encode_line
from maas_sdk.tensors import Array, Signature

__all__ = [
    "DONE",
    "JOB",
    "OutputPart",
    "bad_name",
    "check_outputs",
    "finished",
    "is_ours",
    "part_name",
]

# What the job is, written first; what became of it, written last.
JOB: Final = "job.json"
DONE: Final = "done.json"
_OURS: Final = re.compile(r"(part|bad)-(\d{6,})-([0-9a-f]{12})\.(jsonl|npz|parquet)")


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputPart:
    """The answers to some consecutive rows of the input."""

    index: int
    # Rows of the input, those not answered included.
    rows: int
    # [G] of integers or text.
    keys: Array
    # By name, [G, …].
    outputs: Mapping[str, Array]
    bad: tuple[BadRow, ...]

    def write(self, path: Path, kind: str, key: str) -> None:
        """Write keys, under the name ``key``, and answers; ``kind`` is one of ``FORMATS``."""
        _WRITERS[kind](path, {key: self.keys, **self.outputs})

    def write_bad(self, path: Path, key: str) -> None:
        """Write the rows that were not answered: ``{"row": 7, "id": "a", "reason": "…"}``."""
        with path.open("wb") as file:
            for bad in self.bad:
                named = {key: bad.key} if bad.key is not None else {}
                file.write(encode_line({"row": bad.row, **named, "reason": bad.reason}))


def part_name(index: int, fingerprint: str, kind: str) -> str:
    """Return the name of the file of a part."""
    return f"part-{index:06}-{fingerprint[:12]}.{kind}"


def bad_name(index: int, fingerprint: str) -> str:
    """Return the name of the file of a part's rows that were not answered."""
    return f"bad-{index:06}-{fingerprint[:12]}.jsonl"


def finished(names: Iterable[str], fingerprint: str) -> set[int]:
    """Return the numbers of a job's parts that exist."""
    found = (_OURS.fullmatch(name) for name in names)
    return {int(m[2]) for m in found if m and m[1] == "part" and m[3] == fingerprint[:12]}


def is_ours(name: str) -> bool:
    """Return whether a file was written by a batch prediction, this one or another."""
    return name in (JOB, DONE) or _OURS.fullmatch(name) is not None


def check_outputs(signature: Signature, kind: str, key: str) -> None:
    """Refuse, with ``ConfigError``, answers that a format cannot hold."""
    if kind == "parquet":
        arrow()
    for name, spec in signature.outputs.items():
        if name == key:
            raise ConfigError(
                f"the program has an output {name!r}, which is also the name of the column of "
                "keys: name another column with --key"
            )
        if kind != "npz" and spec.dtype.removeprefix("b").startswith("complex"):
            raise ConfigError(
                f"output {name!r} is {spec}, and {kind} has no complex numbers: use --format npz"
            )


def _plain(array: Array) -> Array:
    """Convert bfloat16 and similar arrays to dtypes that other programs know."""
    if array.dtype.kind != "V":
        return array
    if array.dtype.name.startswith(("int", "uint")):
        return array.astype(np.int8 if array.dtype.name.startswith("int") else np.uint8)
    return array.astype(np.complex64 if "complex" in array.dtype.name else np.float32)


def _write_npz(path: Path, columns: Mapping[str, Array]) -> None:
    arrays = {
        name: array.astype(str) if array.dtype.kind == "O" else _plain(array)
        for name, array in columns.items()
    }
    with path.open("wb") as file:
        named: dict[str, Any] = arrays
        np.savez(file, **named)


def _write_parquet(path: Path, columns: Mapping[str, Array]) -> None:
    pyarrow = arrow()
    names = list(columns)
    table = pyarrow.table([column_of(_plain(array)) for array in columns.values()], names=names)
    # Sums of pages, so that a damaged file is noticed by who reads it.
    pyarrow.parquet.write_table(table, path, write_page_checksum=True)


# Rows that are turned into text at a time.
_LINES: Final = 4096


def _write_jsonl(path: Path, columns: Mapping[str, Array]) -> None:
    arrays = {name: _plain(array) for name, array in columns.items()}
    total = min(len(array) for array in arrays.values())
    with path.open("wb") as file:
        for start in range(0, total, _LINES):
            values = [array[start : start + _LINES].tolist() for array in arrays.values()]
            file.writelines(
                encode_line(dict(zip(arrays, row, strict=True)))
                for row in zip(*values, strict=True)
            )


_WRITERS: Final = {"jsonl": _write_jsonl, "npz": _write_npz, "parquet": _write_parquet}
