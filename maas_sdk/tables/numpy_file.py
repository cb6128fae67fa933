"""Rows of .npy and .npz files, piece by piece.

Files are read, not mapped, so that memory holds what is worked on and nothing else; nothing in them
is ever executed (no pickles). An .npz is checked against its own sums before its first row.

Dimension letters: N rows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

import numpy as np

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tables.columns import NAMELESS, ReadOptions
from maas_sdk.tables.table import Piece, Table
from maas_sdk.tables.values import fit
from maas_sdk.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from zipfile import ZipFile

__all__ = ["NpyFile", "NpzFile", "read_arrays"]

_CHECK_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class _Header:
    """Header of an .npy."""

    # [N, …]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    # Where the values begin.
    offset: int

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape[1:])


class NpyFile(Table):
    """An array [N, …] in a file of its own, for one input."""

    def select(
        self, specs: Mapping[str, TensorSpec], options: ReadOptions, *, chunk_rows: int
    ) -> Self:
        """Select as ``Table.select``; there is nothing to choose."""
        if options.key is not None or options.columns or options.ignore:
            raise ConfigError(
                f"{self.path} holds one array without a name: it has no columns and no keys to "
                "choose; put the arrays into an .npz under their names"
            )
        if len(specs) != 1:
            raise InputError(
                f"{self.path} holds one array, the program has inputs {', '.join(specs)}: "
                "put them in an .npz under these names",
                path=str(self.path),
            )
        return super().select(specs, options, chunk_rows=chunk_rows)

    def _open(self) -> None:
        with self.path.open("rb") as file:
            self._header = header = _header(file, str(self.path))
        _check_size(self.path.stat().st_size - header.offset, header, str(self.path))
        self.names = [NAMELESS]
        self.rows = header.shape[0]

    def _check(self) -> None:
        [item] = self.columns.fields
        fit(item, _none(self._header), {}, finite=False)

    def _pieces(self, first: int) -> Iterator[Piece]:
        header, total = self._header, self._header.shape[0]
        with self.path.open("rb", buffering=0) as file:
            file.seek(header.offset + first * header.row_bytes)
            for start in range(first, total, self.chunk_rows):
                stop = min(start + self.chunk_rows, total)
                values = _take(file, header, stop - start, str(self.path), start)
                yield Piece(start, stop - start, {NAMELESS: values}, {}, stop / total)


class NpzFile(Table):
    """Arrays [N, …] by name. Keys are an array of integers or text."""

    def select(
        self, specs: Mapping[str, TensorSpec], options: ReadOptions, *, chunk_rows: int
    ) -> Self:
        """Select as ``Table.select``."""
        if self.names == ["arr_0"] and len(specs) == 1 and not options.columns:
            # np.savez(path, x) calls its only array arr_0, which nobody meant as a name.
            options = replace(options, columns={next(iter(specs)): ("arr_0",)})
        return super().select(specs, options, chunk_rows=chunk_rows)

    def _open(self) -> None:
        with _opened(self.path) as archive:
            self.names = [name.removesuffix(".npy") for name in archive.namelist()]

    def _check(self) -> None:
        self._headers: dict[str, _Header] = {}
        with _opened(self.path) as archive:
            for name in self.columns.names:
                where = f"{self.path}: array {name!r}"
                with archive.open(f"{name}.npy") as member:
                    self._headers[name] = header = _header(member, where)
                size = archive.getinfo(f"{name}.npy").file_size
                _check_size(size - header.offset, header, where)
            _check_sums(archive, self.columns.names, self.path)
        counts = {name: header.shape[0] for name, header in self._headers.items()}
        if len(set(counts.values())) > 1:
            raise InputError(
                f"{self.path}: expected arrays of the same number of rows, found "
                + ", ".join(f"{name} {count}" for name, count in counts.items()),
                path=str(self.path),
            )
        self.rows = next(iter(counts.values()))
        if (key := self.columns.key) is not None:
            header = self._headers[key]
            if header.dtype.kind not in "iuUS" or len(header.shape) != 1:
                raise InputError(
                    f"{self.path}: keys {key!r}: expected integers or text [N], found "
                    f"{header.dtype}{list(header.shape)}",
                    path=str(self.path),
                )
        for item in self.columns.fields:
            parts = [_none(self._headers[column]) for column in item.columns]
            fit(item, parts[0] if len(parts) == 1 else np.stack(parts, 1), {}, finite=False)

    def _pieces(self, first: int) -> Iterator[Piece]:
        """Exactly from ``first`` on: rows before it are unpacked and dropped."""
        total = self.rows or 0
        with _opened(self.path) as archive, ExitStack() as stack:
            members = {}
            for name, header in self._headers.items():
                member = stack.enter_context(archive.open(f"{name}.npy"))
                member.seek(header.offset + first * header.row_bytes)
                members[name] = member
            for start in range(first, total, self.chunk_rows):
                count = min(self.chunk_rows, total - start)
                arrays = {
                    name: _take(
                        member, self._headers[name], count, f"{self.path}: array {name!r}", start
                    )
                    for name, member in members.items()
                }
                if (key := self.columns.key) is not None:
                    arrays[key] = _keys(arrays[key])
                yield Piece(start, count, arrays, {}, (start + count) / total)


def read_arrays(path: Path, wanted: Collection[str] | None = None) -> dict[str, Array]:
    """Return the arrays of an .npz by name, of any shape; None: all.

    Raises:
        InputError: no such file, cut, damaged, with objects in it, or without a wanted array.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file", path=str(path))
    try:
        # Opened here: NumPy leaves a file open that turns out not to be an archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            names = sorted(archive.files)
            found = {n: archive[n] for n in archive.files if wanted is None or n in wanted}
    # Of a damaged archive: zipfile's, zlib's and struct's errors, and whatever NumPy's parser of
    # headers runs into.
    except Exception as error:
        raise InputError(
            f"{path}: cannot be read as an .npz of plain arrays, it may be cut or damaged: {error}",
            path=str(path),
        ) from error
    if missing := [name for name in wanted or () if name not in found]:
        raise InputError(
            f"{path}: expected arrays named {' and '.join(map(repr, wanted or ()))}, found "
            f"{names}; missing: {missing}",
            path=str(path),
        )
    return found


def _none(header: _Header) -> Array:
    return np.empty((0, *header.shape[1:]), header.dtype)


def _keys(values: Array) -> Array:
    """Return keys as integers or text, [N]."""
    return np.char.decode(values, "utf-8", "replace") if values.dtype.kind == "S" else values


def _header(file: IO[bytes], where: str) -> _Header:
    """Read the header at the front of an .npy."""
    form = np.lib.format
    try:
        version = form.read_magic(file)
        if version == (1, 0):
            shape, by_column, dtype = form.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, by_column, dtype = form.read_array_header_2_0(file)
        else:
            raise ValueError(f"version {version}")
        offset = file.tell()
    # Of a damaged header: whatever NumPy's parser of headers runs into.
    except Exception as error:
        raise InputError(
            f"{where}: cannot be read as an .npy of a plain array, it may be cut or damaged: "
            f"{str(error)[:200]}"
        ) from error
    if dtype.hasobject or len(shape) < 1 or min(shape) < 0 or dtype.kind not in "biufcUS":
        raise InputError(f"{where}: expected numbers [N, …], found {dtype}{list(shape)}")
    if by_column and len(shape) > 1 and min(shape) > 0 and max(shape[1:]) > 1:
        raise InputError(
            f"{where}: the array is stored column by column, so that no row can be read alone: "
            "save it again as np.ascontiguousarray(array)"
        )
    if shape[0] == 0:
        raise InputError(f"{where}: there are no rows in it")
    return _Header(shape, dtype, offset)


def _check_size(found: int, header: _Header, where: str) -> None:
    expected = header.shape[0] * header.row_bytes
    if found != expected:
        raise InputError(
            f"{where}: {header.dtype}{list(header.shape)} takes {expected} bytes, found {found}: "
            "the file is cut or damaged: copy it, or make it, again"
        )


def _take(file: IO[bytes], header: _Header, rows: int, where: str, start: int) -> Array:
    """Return the next rows of an open file."""
    values = np.empty((rows, *header.shape[1:]), header.dtype)
    if not values.nbytes:
        return values
    left = values.reshape(-1).view(np.uint8).data
    try:
        while left:
            count = file.readinto(left)  # type: ignore[attr-defined]
            if not count:
                raise EOFError(f"the file ends within rows {start} to {start + rows}")
            left = left[count:]
    except Exception as error:  # zipfile's, zlib's and the system's errors
        raise InputError(
            f"{where}: rows from {start} on cannot be read, the file is cut or damaged: {error}",
            row=start,
        ) from error
    return values


def _opened(path: Path) -> ZipFile:
    from zipfile import ZipFile

    try:
        return ZipFile(path)
    except Exception as error:  # zipfile's and struct's errors, and the system's
        raise InputError(
            f"{path}: cannot be read as an .npz, it may be cut or damaged: {error}", path=str(path)
        ) from error


def _check_sums(archive: ZipFile, names: list[str], path: Path) -> None:
    """Read all arrays once, since a member's checksum is only verified at its end."""
    for name in names:
        try:
            with archive.open(f"{name}.npy") as member:
                while member.read(_CHECK_BYTES):
                    pass
        except Exception as error:
            raise InputError(
                f"{path}: array {name!r} is cut or damaged: {error}", path=str(path)
            ) from error
