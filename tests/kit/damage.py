"""Files that were damaged on their way."""

from __future__ import annotations

from pathlib import Path

__all__ = ["flip"]


def flip(path: Path, at: int | None = None) -> None:
    """Turn one bit of a file, of the byte in its middle or of another one."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)
