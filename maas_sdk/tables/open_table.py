"""Opening of files, and folders of images, by their names' suffixes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tables.chunk import Chunk
from maas_sdk.tables.columns import ReadOptions
from maas_sdk.tables.csv_file import CsvFile
from maas_sdk.tables.images import IMAGE_SUFFIXES, Images
from maas_sdk.tables.json_lines import JsonLinesFile
from maas_sdk.tables.numpy_file import NpyFile, NpzFile
from maas_sdk.tables.parquet_file import ParquetFile
from maas_sdk.tables.table import Table
from maas_sdk.tensors import TensorSpec

__all__ = ["SUFFIXES", "RowSource", "open_table"]


class RowSource(Protocol):
    """An open file of rows.

    Attributes:
        key: name of the column of keys: "row" where they are the rows' numbers.
        rows: how many there are, where that is known before all have been read.
    """

    key: str
    rows: int | None

    def read(self, first: int) -> Iterator[Chunk]:
        """Yield the rows in their order, from number ``first`` on, or from before it.

        Raises:
            InputError: the file turns out to be cut or damaged; the message says from which row.
        """
        ...


_KINDS: Final[dict[str, Callable[[Path], Table]]] = {
    ".npy": NpyFile,
    ".npz": NpzFile,
    ".parquet": ParquetFile,
    ".csv": CsvFile,
    ".jsonl": JsonLinesFile,
    ".ndjson": JsonLinesFile,
}

# Endings of all files that can be read.
SUFFIXES: Final = (*_KINDS, *IMAGE_SUFFIXES)


def open_table(
    path: Path, specs: Mapping[str, TensorSpec], options: ReadOptions, *, chunk_rows: int
) -> RowSource:
    """Open a file by its name's suffix.

    Args:
        path: .npy, .npz, .parquet, .csv, .jsonl, an image, or a folder of images.
        specs: of the inputs that rows are read for, [None, …] each.
        options: columns, keys and what else bears on reading.
        chunk_rows: N, rows that are read at a time where a file can be read by rows.

    Raises:
        InputError: nothing there, cut or damaged, or without the columns that are needed.
        ConfigError: another kind of file; options that do not go with this kind.
        DependencyError: a package that reads this kind is not installed.
    """
    suffix = path.suffix.lower()
    if path.is_dir() or (path.is_file() and suffix in IMAGE_SUFFIXES):
        return Images(path, specs, options, chunk_rows=chunk_rows)
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder", path=str(path))
    if suffix not in _KINDS:
        raise ConfigError(
            f"{path}: expected a file that ends in {', '.join(SUFFIXES)}, or a folder of images"
        )
    return _KINDS[suffix](path).select(specs, options, chunk_rows=chunk_rows)
