"""Blocks of whole lines of a text file: shared by csv and JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from maas_sdk.errors import InputError

__all__ = ["blocks", "lines_of"]

_BLOCK_BYTES: Final = 2**20
# A line longer than this is taken for a file of another kind.
_LINE_BYTES: Final = 64 * 2**20


def blocks(
    path: Path,
    *,
    skip: int = 0,
    block_bytes: int = _BLOCK_BYTES,
    max_line_bytes: int = _LINE_BYTES,
) -> Iterator[tuple[bytes, float]]:
    """Yield (whole lines, share of the file that has been read), a block at a time.

    Args:
        path: the file.
        skip: bytes at its front that are not wanted.
        block_bytes: read at a time.
        max_line_bytes: of a line, and a block.

    Raises:
        InputError: it cannot be read, or a line is too long.
    """
    size = max(path.stat().st_size, 1)
    done = skip
    # What came since the last end of a line, joined once.
    tail: list[bytes] = []
    try:
        with path.open("rb") as file:
            file.seek(skip)
            while data := file.read(block_bytes):
                done += len(data)
                end = data.rfind(b"\n") + 1
                if not end:
                    tail.append(data)
                    if sum(map(len, tail)) > max_line_bytes:
                        raise InputError(
                            f"{path}: no end of line within {max_line_bytes:,} bytes, expected a "
                            "line for each row",
                            path=str(path),
                        )
                    continue
                yield b"".join([*tail, data[:end]]), done / size
                tail = [data[end:]]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}", path=str(path)) from error
    if last := b"".join(tail):
        yield last, 1.0


def lines_of(block: bytes) -> list[bytes]:
    """Return the lines of a block that are not empty, without their ends."""
    lines = (line.rstrip(b"\r") for line in block.split(b"\n"))
    return [line for line in lines if line.strip()]
