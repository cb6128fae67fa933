"""Checksums of a folder's files: what tells a damaged checkpoint from a whole one.

Tensors are stored without checksums of their own, so that a flipped bit would come back as another
weight. The rule: checksums are written last, over files that no longer change, and name every file
with its size; crc32 is against accidents, not against an adversary, and costs a tenth of the write.
"""

from __future__ import annotations

import json
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from maas_sdk.errors import CorruptError

__all__ = ["CHECKSUMS", "check_checksums", "write_checksums"]

CHECKSUMS: Final = "checksums.json"
_CHUNK_BYTES: Final = 4 * 2**20


def write_checksums(folder: Path) -> None:
    """Write ``checksums.json`` into ``folder``, whole or not at all: path → [bytes, crc32]."""
    document = {path: list(_measure(folder / path)) for path in _files(folder)}
    unfinished = folder / f".{CHECKSUMS}"
    unfinished.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    os.replace(unfinished, folder / CHECKSUMS)


def check_checksums(folder: Path) -> None:
    """Hold every file against ``checksums.json``; a folder without one passes.

    Raises:
        CorruptError: a file is missing, or its size or bytes are not those that were written.
    """
    try:
        expected = json.loads((folder / CHECKSUMS).read_text())
    except FileNotFoundError:  # its writer was killed between the last file and this one
        return
    except ValueError as error:
        raise CorruptError(
            f"{folder / CHECKSUMS} is not JSON: {error}", file=str(folder / CHECKSUMS)
        ) from error

    def check(item: tuple[str, list[int]]) -> None:
        path, (size, checksum) = item
        file = folder / path
        try:
            found = _measure(file)
        except OSError as error:
            raise CorruptError(
                f"{file}: expected a file of {size} bytes, found {error.strerror}", file=str(file)
            ) from error
        if found[0] != size:
            raise CorruptError(f"{file}: expected {size} bytes, found {found[0]}", file=str(file))
        if found[1] != checksum:
            raise CorruptError(
                f"{file}: expected crc32 {checksum:08x}, found {found[1]:08x}: the bytes on the "
                "disk are not the ones that were written",
                file=str(file),
            )

    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(check, expected.items()))


def _files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name.lstrip(".") != CHECKSUMS
    )


def _measure(file: Path) -> tuple[int, int]:
    """Size in bytes and crc32."""
    size, checksum = 0, 0
    buffer = bytearray(min(_CHUNK_BYTES, max(1, file.stat().st_size)))
    with open(file, "rb", buffering=0) as source:
        while count := source.readinto(buffer):
            size += count
            checksum = zlib.crc32(memoryview(buffer)[:count], checksum)
    return size, checksum
