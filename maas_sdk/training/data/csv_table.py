"""Examples of a csv file.

Every value is a number, or the error names its row and column; nothing is guessed from the first
rows of a file.

Dimension letters: N rows, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maas_sdk.errors import InputError
from maas_sdk.tables.csv_file import CsvFile
from maas_sdk.tensors import TensorSpec
from maas_sdk.training.data.examples import Examples
from maas_sdk.training.data.labelled_table import all_good, file_at, label_spec, labelled_columns

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
        path: the file, UTF-8, comma-separated; quoted values may hold line breaks.
        labels: name of the column of labels.
        inputs: names of the F columns of inputs; None is all others, in their order.
        classes: labels are integers; False takes any numbers, to regress on.
        rows: N, where it is known. A csv does not say how many rows it has, so that one cut right
            behind a value looks whole.

    Returns:
        inputs float32[N, F]; labels int32[N], or float32[N].

    Raises:
        InputError: no such file, cut or damaged, other columns, another number of rows; a value
            that is no finite number, with its row: 1 is the header, empty lines do not count.
        DependencyError: pyarrow is not installed.
    """
    path = file_at(path)
    table = CsvFile(path)
    options = labelled_columns(path, table.names, labels, inputs)
    features = len(options.columns["inputs"])
    specs = {
        "inputs": TensorSpec(dtype="float32", shape=(None, features)),
        "labels": label_spec(classes=classes),
    }
    table.select(specs, options, chunk_rows=1)
    chunks = [all_good(path, chunk, first_row=2) for chunk in table.read(0)]
    found = sum(len(chunk["labels"]) for chunk in chunks)
    if found == 0 or found != (rows or found):
        raise InputError(
            f"{path}: expected {rows or 'one or more'} rows, found {found}; is the file cut?",
            path=path,
        )
    return Examples(**{name: np.concatenate([chunk[name] for chunk in chunks]) for name in specs})
