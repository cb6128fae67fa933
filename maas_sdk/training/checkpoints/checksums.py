"""Checksums of a checkpoint's files, to detect damage.

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
_PART_BYTES: Final = 64 * 2**20
_CHUNK_BYTES: Final = 2**20


def write_checksums(folder: Path) -> None:
    """Write ``checksums.json`` into ``folder``, whole or not at all.

    It says of each path the bytes and, as hexadecimal crc32, of each 64 MiB of them.
    """
    document = {}
    with _pool() as pool:
        for path in _files(folder):
            size = (folder / path).stat().st_size
            parts = pool.map(lambda begin, f=folder / path: _checksum(f, begin), _parts(size))
            document[path] = {"bytes": size, "crc32": list(parts)}
    unfinished = folder / f".{CHECKSUMS}"
    unfinished.write_text(json.dumps(document, indent=1, sort_keys=True))
    os.replace(unfinished, folder / CHECKSUMS)


def check_checksums(folder: Path) -> None:
    """Check every file against ``checksums.json``; a folder without one passes.

    Raises:
        CorruptError: a file is missing, or its size or bytes are not those that were written.
    """
    list_file = folder / CHECKSUMS
    try:
        document = json.loads(list_file.read_text())
        expected = {path: (int(e["bytes"]), list(e["crc32"])) for path, e in document.items()}
    except FileNotFoundError:  # its writer was killed between the last file and this one
        return
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(
            f"{list_file} does not read as it was written: {error!r}", file=str(list_file)
        ) from error
    for path, (size, _) in expected.items():
        try:
            found = (folder / path).stat().st_size
        except OSError as error:
            raise CorruptError(
                f"{folder / path}: expected a file of {size} bytes, found {error.strerror}",
                file=str(folder / path),
            ) from error
        if found != size:
            raise CorruptError(
                f"{folder / path}: expected {size} bytes, found {found}", file=str(folder / path)
            )

    def check(part: tuple[Path, int, str]) -> None:
        file, begin, checksum = part
        if (found := _checksum(file, begin)) != checksum:
            raise CorruptError(
                f"{file}: from byte {begin} on, expected crc32 {checksum}, found {found}: what is "
                "on the disk is not what was written",
                file=str(file),
            )

    parts = [
        (folder / path, begin, checksum)
        for path, (size, checksums) in expected.items()
        for begin, checksum in zip(_parts(size), checksums, strict=True)
    ]
    with _pool() as pool:
        list(pool.map(check, parts))


def _files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name.lstrip(".") != CHECKSUMS
    )


def _pool() -> ThreadPoolExecutor:
    """Return a pool of threads; both reading and crc32 release the interpreter lock."""
    return ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))


def _parts(size: int) -> range:
    return range(0, size, _PART_BYTES)


def _checksum(file: Path, begin: int) -> str:
    """Return the checksum of one part of a file."""
    left, checksum = _PART_BYTES, 0
    buffer = bytearray(_CHUNK_BYTES)
    with open(file, "rb", buffering=0) as source:
        source.seek(begin)
        while left > 0 and (count := source.readinto(memoryview(buffer)[:left])):
            left -= count
            checksum = zlib.crc32(memoryview(buffer)[:count], checksum)
    return f"{checksum:08x}"
