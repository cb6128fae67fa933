"""Columns of a table as arrays, for csv and parquet files; the only importer of pyarrow.

The rule it keeps: which columns are read, and as what, is said before; a table that has others, or
values that are no such numbers, is refused with the column, what was expected and what was found,
and the row where one is to blame.

Dimension letters: N rows, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maas_sdk.errors import DependencyError, InputError
from maas_sdk.tensors import Array
from maas_sdk.training.data.examples import finite_rows

__all__ = ["arrow", "as_labels", "check_types", "features_of", "file_at", "stack", "values_of"]


def arrow() -> Any:
    """Return the package pyarrow, with its modules for csv and parquet loaded.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow.compute  # type: ignore[import-untyped]
        import pyarrow.csv  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise DependencyError(
            "csv and parquet files are read by pyarrow, which is not installed: "
            "pip install 'maas-sdk[data]'"
        ) from error
    return pyarrow


def file_at(path: Path | str) -> Path:
    """Return the path of an existing file. Raises ``InputError`` for any other."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file", path=path)
    return path


def features_of(
    path: Path, names: list[str], labels: str, inputs: Sequence[str] | None
) -> list[str]:
    """Return names of the input columns, after checking them and that of the labels."""
    double = sorted({name for name in names if names.count(name) > 1})
    wanted = [name for name in names if name != labels] if inputs is None else list(inputs)
    missing = [name for name in [*wanted, labels] if name not in names]
    if missing or double or not wanted:
        raise InputError(
            f"{path}: expected columns {wanted} and {labels!r}, found {names}"
            + (f"; missing: {missing}" if missing else "")
            + (f"; twice: {double}" if double else ""),
            path=path,
            missing=missing,
        )
    return wanted


def check_types(
    path: Path, schema: Any, features: list[str], labels: str, *, classes: bool
) -> None:
    """Check that columns have types that inputs and labels can have."""
    types = arrow().types
    for name in [*features, labels]:
        found = schema.field(name).type
        inner = found.value_type if name != labels and _is_list(found) else found
        wanted = "integers" if name == labels and classes else "numbers"
        right = types.is_integer(inner) or (
            wanted == "numbers" and (types.is_floating(inner) or types.is_boolean(inner))
        )
        if not right or (_is_list(found) and len(features) > 1):
            hint = "" if name != labels or not classes else ", one class for each row"
            raise InputError(
                f"{path}: column {name!r}: expected {wanted}{hint}, found {found}", path=path
            )


def values_of(column: Any, where: str, first_row: int) -> Array:
    """Return a column of arrow's as an array, [N] or, of lists, [N, F]; all there and finite."""
    compute = arrow().compute
    lists = _is_list(column.type)
    # Numbers in each row; 0 for null.
    counts: Array = (
        compute.fill_null(compute.list_value_length(column), 0).to_numpy()
        if lists
        else column.is_valid().to_numpy().astype(np.int64)
    )
    width = max(int(counts[0]), 1) if lists else 1
    odd = np.flatnonzero(counts != width)
    if len(odd):
        found = counts[odd[0]] or "null"
        raise InputError(
            f"{where}: expected {width} in each row, found {found} in row {first_row + odd[0]}"
            if lists
            else f"{where}: expected a number, found {found} in row {first_row + odd[0]}",
            row=first_row + int(odd[0]),
        )
    values: Array = (compute.list_flatten(column) if lists else column).to_numpy()
    values = values.reshape(-1, width) if lists else values
    if values.dtype.kind == "f":
        # Beyond float32's range is infinite, and said to be.
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
    return finite_rows(values, first_row=first_row, where=where)


def stack(columns: dict[str, Array]) -> Array:
    """Stack columns [N] to float32[N, F]; a single one of lists [N, F] stays unchanged."""
    first, *others = columns.values()
    if first.ndim == 2 and not others:
        return first
    return np.stack([column.astype(np.float32) for column in columns.values()], axis=1)


def as_labels(labels: Array, where: str) -> Array:
    """Convert labels to device dtypes: int32 or float32, [N].

    Raises:
        InputError: integers that int32 does not hold.
    """
    if labels.dtype.kind == "f":
        return labels.astype(np.float32)
    if labels.size and not -(2**31) <= labels.min() <= labels.max() < 2**31:
        raise InputError(
            f"{where}: expected classes that int32 holds, found {labels.min()} to {labels.max()}"
        )
    return labels.astype(np.int32)


def _is_list(kind: Any) -> bool:
    types = arrow().types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
