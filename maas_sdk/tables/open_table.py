"""What a batch prediction reads: a file's rows as chunks that fit the program.

The rule it keeps: a source that opens has the columns that the program needs; what is wrong with
single rows is found while they are read, and is theirs alone. Memory holds a few chunks, however
large the file is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

from maas_sdk.batch.config import BatchConfig
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tables.chunk import Chunk
from maas_sdk.tables.csv_file import CsvFile
from maas_sdk.tables.images import PICTURES, Images
from maas_sdk.tables.json_lines import JsonLinesFile
from maas_sdk.tables.numpy_file import NpyFile, NpzFile
from maas_sdk.tables.parquet_file import ParquetFile
from maas_sdk.tensors import Signature

__all__ = ["SUFFIXES", "RowSource", "open_source"]


class RowSource(Protocol):
    """An input that has been opened.

    Attributes:
        key: name of the column that answers stand beside: "row" where it is the row's number.
        rows: how many there are, where that is known before all have been read.
    """

    key: str
    rows: int | None

    def read(self, first: int) -> Iterator[Chunk]:
        """The rows in their order, from number ``first`` on, or from before it.

        Raises:
            InputError: the file turns out to be cut or damaged; the message says from which row.
        """
        ...


_KINDS: Final[dict[str, Callable[..., RowSource]]] = {
    ".npy": NpyFile,
    ".npz": NpzFile,
    ".parquet": ParquetFile,
    ".csv": CsvFile,
    ".jsonl": JsonLinesFile,
    ".ndjson": JsonLinesFile,
    **dict.fromkeys(PICTURES, Images),
}

# Endings of all files that can be read.
SUFFIXES: Final = tuple(_KINDS)


def open_source(
    path: Path, signature: Signature, config: BatchConfig, *, chunk_rows: int
) -> RowSource:
    """Open an input by what its name ends in.

    Args:
        path: .npy, .npz, .parquet, .csv, .jsonl, an image, or a folder of images.
        signature: of the program that rows are read for.
        config: columns, keys and what else bears on reading.
        chunk_rows: N, rows that are read at a time where a file can be read by rows.

    Raises:
        InputError: nothing there, cut or damaged, or without the columns that are needed.
        ConfigError: another kind of file; options that do not go with this kind; a package that is
            not installed.
    """
    if path.is_dir():
        return Images(path, signature, config, chunk_rows=chunk_rows)
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder", path=str(path))
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(
            f"{path}: expected a file that ends in {', '.join(SUFFIXES)}, or a folder of images"
        )
    return kind(path, signature, config, chunk_rows=chunk_rows)
