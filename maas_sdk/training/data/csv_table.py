"""Examples out of a csv file.

The rule it keeps: every value is the number that its column is said to hold, or the error names the
row, the column and the value; nothing is guessed from what a file's first rows look like.

Dimension letters: N rows, F features.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from maas_sdk.errors import InputError
from maas_sdk.training.data.examples import Examples
from maas_sdk.training.data.labelled_table import (
    arrow,
    as_labels,
    features_of,
    file_at,
    stack,
    values_of,
)

__all__ = ["read_csv"]


def read_csv(
    path: Path | str,
    *,
    labels: str,
    inputs: Sequence[str] | None = None,
    classes: bool = True,
    rows: int | None = None,
) -> Examples:
    """Read a csv file with a header into memory.

    Args:
        path: the file, UTF-8, comma-separated.
        labels: name of the column of labels.
        inputs: names of the F columns of inputs; None is all others, in their order.
        classes: labels are integers; False takes any numbers, to regress on.
        rows: N, where it is known. A csv does not say how many rows it has, so that one cut right
            behind a value looks whole.

    Returns:
        inputs float32[N, F]; labels int32[N], or float32[N].

    Raises:
        InputError: no such file, cut or damaged, other columns, another number of rows; a value
            that is no number, with its row: 1 is the header, empty lines do not count.
        ConfigError: pyarrow is not installed.
    """
    path = file_at(path)
    pyarrow = arrow()
    names = _header(path)
    features = features_of(path, names, labels, inputs)
    types = {name: pyarrow.float64() for name in features}
    types[labels] = pyarrow.int64() if classes else pyarrow.float64()
    try:
        table = pyarrow.csv.read_csv(
            path,
            # One thread reads in order, so that errors have the number of their row.
            read_options=pyarrow.csv.ReadOptions(use_threads=False),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types, include_columns=[*features, labels], null_values=[]
            ),
        )
    except Exception as error:
        raise InputError(f"{path}: {_csv_message(str(error), names)}", path=path) from error
    if table.num_rows == 0 or table.num_rows != (rows or table.num_rows):
        raise InputError(
            f"{path}: expected {rows or 'one or more'} rows, found {table.num_rows}; is the file "
            "cut?",
            path=path,
        )
    columns = {
        name: values_of(table.column(name), f"{path}: column {name!r}", first_row=2)
        for name in types
    }
    found = as_labels(columns.pop(labels), f"{path}: column {labels!r}")
    return Examples(inputs=stack(columns), labels=found)


def _header(path: Path) -> list[str]:
    """Return names in the first row of a csv."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a csv in UTF-8: {error}", path=path) from error


# As arrow says it: In CSV column #1: Row #3: CSV conversion error to double: invalid value 'x'
_NO_NUMBER: Final = re.compile(
    r"column #(\d+): Row #(\d+): .* error to (\w+): invalid value '(.*)'", re.S
)
# CSV parse error: Row #3: Expected 3 columns, got 2: 4,5
_NO_ROW: Final = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)", re.S)


def _csv_message(message: str, names: list[str]) -> str:
    """Return arrow's message about a csv, with the column's name."""
    if found := _NO_NUMBER.search(message):
        column, row, kind, value = found.groups()
        expected = "an integer" if kind.startswith("int") else "a number"
        return (
            f"row {row}, column {names[int(column)]!r}: expected {expected}, found {value[:40]!r}"
        )
    if found := _NO_ROW.search(message):
        row, expected, got = found.groups()
        return f"row {row}: expected {expected} values, found {got}; is the file cut?"
    return f"cannot be read as a csv: {message[:200]}"
