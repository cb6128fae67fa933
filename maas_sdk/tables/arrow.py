"""The one door to pyarrow, and its arrays as NumPy's.

The rule it keeps: what arrow says of a file as a whole leaves as an ``InputError``; which of its
values are none is for the callers to say, row by row.

Dimension letters: N rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from maas_sdk.errors import DependencyError
from maas_sdk.tensors import Array

__all__ = ["array_of", "arrow", "column_of", "is_list", "is_number", "is_text"]


def arrow() -> Any:
    """The package pyarrow, with its modules for csv and parquet loaded.

    Raises:
        ConfigError: it is not installed.
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
    """Whether a type is one of lists."""
    types = arrow().types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def is_number(kind: Any) -> bool:
    """Whether a type is one of integers, floats or booleans."""
    types = arrow().types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def is_text(kind: Any) -> bool:
    """Whether a type is one of text, also of text by number."""
    types = arrow().types
    if types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind))


def array_of(column: Any) -> Array | None:
    """A column of numbers, or of lists of them, as one array [N, …].

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
    """An array [N, …] as a column: of numbers or text, or of lists of one length."""
    pyarrow = arrow()
    if array.dtype.kind in "OU":
        return pyarrow.array(array.tolist(), pyarrow.string())
    column = pyarrow.array(np.ascontiguousarray(array).reshape(-1))
    for size in reversed(array.shape[1:]):
        column = pyarrow.FixedSizeListArray.from_arrays(column, size)
    return column
