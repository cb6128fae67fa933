"""Compression and decompression by zstd (RFC 8878) and zlib (RFC 1950), bounded in size.

The rule: a stream is decompressed into memory of the caller, and never beyond it. A stream that is
cut, goes on, or holds another number of bytes is refused; sizes that it declares are not trusted.
Faults are ``ValueError``; the caller adds the tensor's name.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from maas_sdk.errors import DependencyError

__all__ = ["CODECS", "Codec"]

_CHUNK_BYTES: Final = 64 * 1024


class Codec(NamedTuple):
    """One kind of compressed stream."""

    # (bytes, level) → stream.
    compress: Callable[[memoryview, int], bytes]
    # (stream, memory that it must fill exactly); raises ValueError.
    decompress: Callable[[memoryview, memoryview], None]
    # The level that is a fair trade of time for size.
    level: int
    # No byte of a stream stands for more bytes than this.
    most: int


def _zlib_decompress(stream: memoryview, out: memoryview) -> None:
    inflater = zlib.decompressobj()
    done = 0
    try:
        for begin in range(0, len(stream), _CHUNK_BYTES):
            left: Any = stream[begin : begin + _CHUNK_BYTES]
            if inflater.eof:
                raise ValueError(f"one that ends {len(stream) - begin} bytes before its part does")
            while left and not inflater.eof:
                # One byte more than fits tells a stream that is too long; 0 would mean no bound.
                found = inflater.decompress(left, min(len(out) - done, 2**20) + 1)
                if done + len(found) > len(out):
                    raise ValueError("a longer one")
                out[done : done + len(found)] = found
                done += len(found)
                left = inflater.unconsumed_tail
    except zlib.error as error:
        raise ValueError(str(error)) from error
    _check_end(done, len(out), whole=inflater.eof and not inflater.unused_data)


def _check_end(found: int, expected: int, *, whole: bool) -> None:
    if found != expected:
        raise ValueError(f"one of {found} bytes")
    if not whole:
        raise ValueError("one that is cut, or goes on")


def _zstandard() -> Any:
    # Here alone: whoever has no such tensor needs no such package.
    try:
        import zstandard
    except ImportError as error:
        raise DependencyError(
            "tensors are compressed with zstd, which needs the package zstandard: "
            "pip install 'maas-sdk[zstd]'"
        ) from error
    return zstandard


def _zstd_compress(data: memoryview, level: int) -> bytes:
    stream: bytes = _zstandard().ZstdCompressor(level=level, write_checksum=True).compress(data)
    return stream


def _zstd_decompress(stream: memoryview, out: memoryview) -> None:
    zstandard = _zstandard()
    try:
        header = zstandard.frame_header_size(stream)
        claimed = zstandard.get_frame_parameters(stream)
        if _frame_end(stream, header, claimed.has_checksum) != len(stream):
            raise ValueError("one that is cut, or goes on")
        reader = zstandard.ZstdDecompressor().stream_reader(stream)
        done = 0
        while done < len(out) and (found := reader.readinto(out[done:])):
            done += found
        longer = bool(reader.read(1))
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    if longer:
        raise ValueError("a longer one")
    _check_end(done, len(out), whole=True)


# The type of a block that is one byte many times; RFC 8878, section 3.1.1.2.2.
_RLE: Final = 1


def _frame_end(stream: memoryview, header: int, has_checksum: bool) -> int:
    """Return the end of a zstd frame by its block headers (RFC 8878, section 3.1.1.2).

    A reader that has all the bytes it asked for does not notice a frame without its end.
    """
    at, last = header, False
    while not last:
        if at + 3 > len(stream):
            raise ValueError("one that is cut, or goes on")
        word = int.from_bytes(stream[at : at + 3], "little")
        last, kind, size = bool(word & 1), word >> 1 & 3, word >> 3
        at += 3 + (1 if kind == _RLE else size)
    return at + 4 * has_checksum


CODECS: Final[dict[str, Codec]] = {
    # A block of 4 bytes holds at most 128 KiB (RFC 8878, section 3.1.1.2.3).
    "zstd": Codec(
        compress=_zstd_compress, decompress=_zstd_decompress, level=9, most=128 * 1024 // 4
    ),
    # zlib's own documentation, "Maximum compression factor".
    "zlib": Codec(compress=zlib.compress, decompress=_zlib_decompress, level=9, most=1032),
}
