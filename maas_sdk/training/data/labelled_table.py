"""Inputs and labels out of the columns of a table: what csv and parquet files share.

Reading is done by ``maas_sdk.tables``. Training takes a table whole: where batch prediction sets a
bad row aside, it is an error here, with the same reason.

Dimension letters: N rows, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from maas_sdk.errors import InputError
from maas_sdk.tables import Chunk, ReadOptions
from maas_sdk.tensors import Array, TensorSpec

__all__ = ["all_good", "file_at", "label_spec", "labelled_columns"]


def file_at(path: Path | str) -> Path:
    """Return the path of a file that is there. Raises ``InputError`` for any other."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file", path=path)
    return path


def labelled_columns(
    path: Path, names: Sequence[str], labels: str, inputs: Sequence[str] | None
) -> ReadOptions:
    """Return the options that read ``inputs``, or all columns but the labels, and the labels."""
    wanted = [name for name in names if name != labels] if inputs is None else list(inputs)
    if not wanted:
        raise InputError(
            f"{path}: expected columns {wanted} and {labels!r}, found {list(names)}", path=path
        )
    columns = {"inputs": tuple(dict.fromkeys(wanted)), "labels": (labels,)}
    return ReadOptions(columns=columns, finite=True)


def label_spec(*, classes: bool) -> TensorSpec:
    """Return the spec of labels as devices take them: int32 for classes, else float32."""
    return TensorSpec(dtype="int32" if classes else "float32", shape=(None,))


def all_good(path: Path, chunk: Chunk, *, first_row: int) -> Mapping[str, Array]:
    """Return the arrays of a chunk without bad rows.

    Raises:
        InputError: it has one; rows count from ``first_row``.
    """
    if chunk.bad:
        bad = chunk.bad[0]
        row = bad.row + first_row
        raise InputError(f"{path}: row {row}, {bad.reason}", path=path, row=row)
    return chunk.inputs
