"""A parquet file as rows that are read on demand.

Memory holds a few row groups, whatever the size of the file. Each row that is handed out is of the
schema that was asked for, or the error names file, column and row.

Dimension letters: N rows, B rows of a batch, F features.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tables import ReadOptions
from maas_sdk.tables.arrow import arrow, is_list
from maas_sdk.tables.parquet_file import ParquetFile
from maas_sdk.tensors import Array, TensorSpec
from maas_sdk.training.data.examples import Batch
from maas_sdk.training.data.labelled_table import all_good, file_at, label_spec, labelled_columns

__all__ = ["ParquetRows"]

# Rows of the column of labels that are read at a time.
_LABEL_ROWS = 2**16


class ParquetRows:
    """Rows of a parquet file, read on demand: a ``Source``.

    Rows are decoded a row group at a time, and the groups used last are kept, so memory is bounded
    by ``groups_kept`` groups. Where rows are shuffled over more groups than are kept, each may cost
    the decoding of a group: give ``batches`` the sampling ``Nearby(groups=source.groups)``, write
    the file in small groups (``row_group_size=``), or ``load`` it.

    Args:
        path: the file.
        labels: name of the column of labels.
        inputs: names of the F columns of inputs, all numbers; or one column of lists of numbers,
            all of one length F; None is all columns but the labels.
        shape: what a row's F numbers are reshaped to, such as (28, 28, 1); None is [F].
        classes: labels are integers; False takes any numbers, to regress on.
        groups_kept: decoded row groups that are kept.

    Raises:
        InputError: no such file, cut or damaged, or other columns.
        DependencyError: pyarrow is not installed.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        labels: str,
        inputs: Sequence[str] | None = None,
        shape: tuple[int, ...] | None = None,
        classes: bool = True,
        groups_kept: int = 8,
    ) -> None:
        self._path = file_at(path)
        if groups_kept < 1:
            raise ConfigError(f"groups_kept: expected 1 or more, got {groups_kept}")
        table = ParquetFile(self._path)
        options = labelled_columns(self._path, table.names, labels, inputs)
        if classes and labels in table.names:
            _check_classes(self._path, labels, table)
        self._label_name, self._label_spec = labels, label_spec(classes=classes)
        specs = {
            "inputs": _input_spec(table, options.columns["inputs"], shape),
            "labels": self._label_spec,
        }
        self._table = table.select(specs, options, chunk_rows=1)
        self._groups: OrderedDict[int, Mapping[str, Array]] = OrderedDict()
        self._groups_kept = groups_kept
        # A ParquetFile is not to be read by two threads at once.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._table.ends[-1])

    def __getitem__(self, row: int) -> Batch:
        return {name: array[0] for name, array in self.read(np.array([row])).items()}

    @property
    def labels(self) -> Array:
        """Labels of all rows, [N], for splits and samplings."""
        options = ReadOptions(columns={"labels": (self._label_name,)}, finite=True)
        table = ParquetFile(self._path)
        table.select({"labels": self._label_spec}, options, chunk_rows=_LABEL_ROWS)
        chunks = [all_good(self._path, chunk, first_row=0) for chunk in table.read(0)]
        return np.concatenate([chunk["labels"] for chunk in chunks])

    @property
    def groups(self) -> Array:
        """Row group of each row, int64[N]: what ``Nearby`` keeps together."""
        sizes = np.diff(self._table.ends, prepend=0)
        return np.repeat(np.arange(len(sizes)), sizes)

    def read(self, rows: Array) -> Batch:
        """Return the rows at ``rows``, int64[B] from 0 to N − 1, in their order.

        Returns:
            inputs float32[B, F], or as in a column of lists; labels int32[B], or float32[B].

        Raises:
            InputError: a row group is damaged, or has values that are no finite numbers.
        """
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        groups = np.searchsorted(self._table.ends, rows, side="right")
        batch: Batch = {}
        for group in np.unique(groups):
            here = groups == group
            for name, array in self._group(int(group)).items():
                if name not in batch:
                    batch[name] = np.empty((len(rows), *array.shape[1:]), array.dtype)
                batch[name][here] = array[rows[here] - self._table.first(int(group))]
        return batch

    def _group(self, group: int) -> Mapping[str, Array]:
        """Return a row group, decoded now or kept from before."""
        with self._lock:
            if group not in self._groups:
                self._groups[group] = self._decoded(group)
            self._groups.move_to_end(group)
            while len(self._groups) > self._groups_kept:
                self._groups.popitem(last=False)
            return self._groups[group]

    def _decoded(self, group: int) -> Mapping[str, Array]:
        return all_good(self._path, self._table.group(group), first_row=0)


def _check_classes(path: Path, labels: str, table: ParquetFile) -> None:
    kind = table.schema.field(labels).type
    if not arrow().types.is_integer(kind):
        raise InputError(
            f"{path}: column {labels!r}: expected integers, one class for each row, found {kind}",
            path=path,
        )


def _input_spec(
    table: ParquetFile, columns: tuple[str, ...], shape: tuple[int, ...] | None
) -> TensorSpec:
    """Return the spec of the inputs: float32 [F]; or, of lists, their own dtype and first shape."""
    dtype, found = "float32", (len(columns),)
    kind = table.schema.field(columns[0]).type if columns[0] in table.names else None
    if len(columns) == 1 and kind is not None and is_list(kind):
        found = np.shape(table.first_value(columns[0])) or (1,)
        while is_list(kind):
            kind = kind.value_type
        if arrow().types.is_integer(kind) or arrow().types.is_boolean(kind):
            dtype = np.dtype(kind.to_pandas_dtype()).name
    if shape is not None and math.prod(shape) != math.prod(found):
        raise InputError(
            f"{table.path}: rows of {math.prod(found)} numbers do not have the shape {list(shape)}",
            path=table.path,
        )
    return TensorSpec(dtype=dtype, shape=(None, *(found if shape is None else shape)))
