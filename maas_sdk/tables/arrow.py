"""The only importer of pyarrow, and conversions of its arrays to NumPy's.

Dimension letters: N rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from maas_sdk.errors import DependencyError
from maas_sdk.tensors import Array

__all__ = ["array_of", "arrow", "as_numbers", "column_of", "is_list", "is_number", "is_text"]


def arrow() -> Any:
    """Return the package pyarrow, with its modules for csv and parquet loaded.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        import pyarrow.compute  # type: ignore[import-untyped]
        import pyarrow.csv  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise DependencyError(
            "csv and parquet files are read and written by pyarrow, which is not installed: "
            "pip install 'maas-sdk[data]'"
        ) from error
    return pyarrow


def is_list(kind: Any) -> bool:
    """Return whether a type is a list."""
    types = arrow().types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def is_number(kind: Any) -> bool:
    """Return whether a type is an integer, float, decimal or boolean."""
    types = arrow().types
    found = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean)
    return any(test(kind) for test in found)


def is_text(kind: Any) -> bool:
    """Return whether a type is text, dictionaries of text included."""
    types = arrow().types
    if types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind))


def as_numbers(column: Any) -> Any:
    """Convert a column of decimals, or of lists of them, to float64; to int64 where all fit.

    Other columns are given back as they are.
    """

    def plain(kind: Any) -> Any:
        if is_list(kind):
            inner = plain(kind.value_type)
            return kind if inner == kind.value_type else arrow().list_(inner)
        if not arrow().types.is_decimal(kind):
            return kind
        # 10^18 is the largest power of ten that int64 holds.
        whole = kind.scale == 0 and kind.precision <= 18
        return arrow().int64() if whole else arrow().float64()

    kind = plain(column.type)
    return column if kind == column.type else column.cast(kind)


def array_of(column: Any) -> Array | None:
    """Convert a column of numbers, or of lists of them, to one array [N, …].

    None where a value is missing or lists differ in length: then its rows are looked at one by one.
    """
    compute = arrow().compute
    shape = [len(column)]
    while is_list(column.type):
        lengths = compute.list_value_length(column)
        extent = compute.min_max(lengths).as_py()
        if column.null_count or (len(column) and extent["min"] != extent["max"]):
            return None
        shape.append(extent["max"] or 0)
        column = compute.list_flatten(column)
    if column.null_count:
        return None
    values: Array = column.to_numpy(zero_copy_only=False)
    return values.reshape(shape)


def column_of(array: Array) -> Any:
    """Convert an array [N, …] to a column: of numbers or text, or of lists of one length."""
    pyarrow = arrow()
    if array.dtype.kind in "OU":
        return pyarrow.array(array.tolist(), pyarrow.string())
    column = pyarrow.array(np.ascontiguousarray(array).reshape(-1))
    for size in reversed(array.shape[1:]):
        column = pyarrow.FixedSizeListArray.from_arrays(column, size)
    return column
