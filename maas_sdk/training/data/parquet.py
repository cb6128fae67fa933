"""A parquet file as rows that are read on demand.

The rule it keeps: memory holds a few row groups, whatever the size of the file; and each row that
is handed out is of the schema that was asked for, or the error names file, column and row.

Dimension letters: N rows, B rows of a batch, F features.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array
from maas_sdk.training.data.examples import Batch
from maas_sdk.training.data.labelled_table import (
    arrow,
    as_labels,
    check_types,
    features_of,
    file_at,
    stack,
    values_of,
)

__all__ = ["ParquetRows"]


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
        ConfigError: pyarrow is not installed.
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
        read = arrow().parquet.ParquetFile
        try:
            self._table = read(self._path, page_checksum_verification=True)
            schema = self._table.schema_arrow
            metadata = self._table.metadata
            sizes = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        except Exception as error:
            raise _damaged(self._path, error) from error
        self._label_name = labels
        self._features = features_of(self._path, schema.names, labels, inputs)
        self._shape = shape
        check_types(self._path, schema, self._features, labels, classes=classes)
        # Row group g holds rows self._ends[g - 1] to self._ends[g].
        self._ends = np.cumsum(np.array(sizes, np.int64))
        if not sizes or min(sizes) < 0 or self._ends[-1] < 1:
            raise InputError(f"{self._path}: the table has no rows", path=self._path)
        self._groups: OrderedDict[int, Batch] = OrderedDict()
        self._groups_kept = groups_kept
        # A ParquetFile is not to be read by two threads at once.
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, row: int) -> Batch:
        return {name: array[0] for name, array in self.read(np.array([row])).items()}

    @property
    def labels(self) -> Array:
        """Labels of all rows, [N], for splits and samplings."""
        columns = [self._columns(group, [self._label_name]) for group in range(len(self._ends))]
        found = np.concatenate([found[self._label_name] for found in columns])
        return as_labels(found, self._where(self._label_name))

    @property
    def groups(self) -> Array:
        """Row group of each row, int64[N]: what ``Nearby`` keeps together."""
        sizes = np.diff(self._ends, prepend=0)
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
        groups = np.searchsorted(self._ends, rows, side="right")
        batch: Batch = {}
        for group in np.unique(groups):
            here = groups == group
            for name, array in self._group(int(group)).items():
                if name not in batch:
                    batch[name] = np.empty((len(rows), *array.shape[1:]), array.dtype)
                batch[name][here] = array[rows[here] - self._first(group)]
        return batch

    def _where(self, column: str) -> str:
        return f"{self._path}: column {column!r}"

    def _first(self, group: int) -> int:
        """Return the number of a group's first row."""
        return int(self._ends[group - 1]) if group else 0

    def _group(self, group: int) -> Batch:
        """Return a row group, decoded or from the cache."""
        with self._lock:
            if group in self._groups:
                self._groups.move_to_end(group)
                return self._groups[group]
        columns = self._columns(group, [*self._features, self._label_name])
        labels = as_labels(columns.pop(self._label_name), self._where(self._label_name))
        inputs = stack(columns)
        if self._shape is not None:
            if inputs.shape[1] != int(np.prod(self._shape)):
                raise InputError(
                    f"{self._path}: rows of {inputs.shape[1]} numbers, in row group {group}, do "
                    f"not have the shape {list(self._shape)}",
                    path=self._path,
                )
            inputs = inputs.reshape(-1, *self._shape)
        else:
            # Lists of one length in a group may be of another one in the next.
            self._shape = inputs.shape[1:]
        with self._lock:
            self._groups[group] = {"inputs": inputs, "labels": labels}
            while len(self._groups) > self._groups_kept:
                self._groups.popitem(last=False)
            return {"inputs": inputs, "labels": labels}

    def _columns(self, group: int, names: list[str]) -> dict[str, Array]:
        """Return columns of a row group by name, [N] or, of lists, [N, F]; all finite."""
        first, count = self._first(group), int(self._ends[group]) - self._first(group)
        try:
            with self._lock:
                table = self._table.read_row_group(group, columns=names, use_threads=False)
            if table.num_rows != count:
                raise ValueError(f"row group {group} has {table.num_rows} of {count} rows")
            return {name: values_of(table.column(name), self._where(name), first) for name in names}
        except InputError:
            raise
        except Exception as error:
            raise _damaged(self._path, error) from error


def _damaged(path: Path, error: object) -> InputError:
    return InputError(
        f"{path}: cannot be read as parquet, it may be cut or damaged: {str(error)[:200]}",
        path=path,
    )
