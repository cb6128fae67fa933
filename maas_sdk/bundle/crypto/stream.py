"""A file encrypted by chunks, decrypted in place and in parallel, always as a whole.

    16 bytes   magic "maasseal", version 1, nonce prefix of 7 random bytes
    then       chunks of chunk_bytes, the last one shorter, each followed by its tag of 16 bytes

A chunk's nonce is prefix | index, 4 bytes big-endian | 1 for the last chunk, else 0. That is the
STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár, "Online Authenticated-Encryption and its
Nonce-Reuse Misuse-Resistance", CRYPTO 2015): a chunk that is moved, missing, repeated or the last
one too early has another nonce, and is not authentic. A file always has a last chunk; only that of
an empty file is empty. What the file is (``associated``) is authenticated with each chunk.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Protocol

from maas_sdk.bundle.crypto.primitives import NONCE_BYTES, TAG_BYTES, Cipher
from maas_sdk.errors import SealError

__all__ = ["HEADER_BYTES", "PREFIX_BYTES", "clear_size", "decrypt_into", "encrypt"]

_MAGIC: Final = b"maasseal\x01"
PREFIX_BYTES: Final = 7
HEADER_BYTES: Final = len(_MAGIC) + PREFIX_BYTES
_MAX_CHUNKS: Final = 2**32
_REMEDY: Final = "copy the sealed bundle again"
# Beyond four, memory is what is waited for; below a few chunks a thread costs more than it gives.
_MAX_THREADS: Final = 4
_CHUNKS_PER_THREAD: Final = 4

assert PREFIX_BYTES + 4 + 1 == NONCE_BYTES


class _Binary(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Layout(NamedTuple):
    """Positions of the chunks in a file of a given size."""

    chunk_bytes: int
    # At least 1.
    chunks: int
    clear_bytes: int

    def clear(self, index: int) -> slice:
        begin = index * self.chunk_bytes
        return slice(begin, min(begin + self.chunk_bytes, self.clear_bytes))

    def sealed(self, index: int) -> slice:
        clear = self.clear(index)
        before = HEADER_BYTES + index * TAG_BYTES
        return slice(before + clear.start, before + clear.stop + TAG_BYTES)


def encrypt(
    source: _Binary,
    write: Callable[[bytes], object],
    cipher: Cipher,
    *,
    prefix: bytes,
    associated: bytes,
    chunk_bytes: int,
) -> None:
    """Encrypt a stream to its end.

    Args:
        source: what is read.
        write: takes the encrypted file piece by piece.
        cipher: under a key with which no other file has this prefix.
        prefix: ``PREFIX_BYTES`` bytes.
        associated: what the file is; the same when it is decrypted.
        chunk_bytes: clear bytes of a chunk.
    """
    write(_MAGIC + prefix)
    for index, last, chunk in _chunks(source, chunk_bytes):
        assert index < _MAX_CHUNKS
        write(cipher.encrypt(_nonce(prefix, index, last), chunk, associated))


def _chunks(source: _Binary, size: int) -> Iterator[tuple[int, bool, bytes]]:
    """Yield index, whether the chunk is the last, and bytes; reads one chunk ahead to know."""
    index, chunk = 0, _read(source, size)
    while True:
        following = _read(source, size) if len(chunk) == size else b""
        yield index, not following, chunk
        if not following:
            return
        index, chunk = index + 1, following


def _read(source: _Binary, size: int) -> bytes:
    """Read ``size`` bytes or to the end, also from a source that gives fewer at a time."""
    parts = []
    while size and (part := source.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _nonce(prefix: bytes, index: int, last: bool) -> bytes:
    return prefix + index.to_bytes(4, "big") + bytes([last])


def clear_size(sealed_bytes: int, chunk_bytes: int, where: str) -> int:
    """Return the decrypted size of an encrypted file of ``sealed_bytes``.

    Raises:
        SealError: no encrypted file has this size.
    """
    return _layout(sealed_bytes, chunk_bytes, where).clear_bytes


def _layout(sealed_bytes: int, chunk_bytes: int, where: str) -> _Layout:
    body, full = sealed_bytes - HEADER_BYTES, chunk_bytes + TAG_BYTES
    count = max(1, -(-body // full))
    last = body - (count - 1) * full
    # Only a file of nothing ends with an empty chunk.
    if last < TAG_BYTES + (count > 1) or count > _MAX_CHUNKS:
        raise SealError(
            f"{where}: {sealed_bytes} bytes are no encrypted file: it was cut; {_REMEDY}",
            file=where,
        )
    return _Layout(chunk_bytes, count, body - count * TAG_BYTES)


def decrypt_into(
    sealed: memoryview,
    out: memoryview,
    cipher: Cipher,
    *,
    associated: bytes,
    chunk_bytes: int,
    where: str,
) -> None:
    """Decrypt a file into memory on a few threads, all of which have ended at the return.

    What ``out`` holds after an error is not authentic.

    Args:
        sealed: the encrypted file.
        out: of ``clear_size`` bytes.
        cipher: under the key of then.
        associated: as at encryption.
        chunk_bytes: as at encryption.
        where: what messages call the file.

    Raises:
        SealError: a chunk is altered, moved, missing or of another file; says which one.
    """
    layout = _layout(len(sealed), chunk_bytes, where)
    if bytes(sealed[: len(_MAGIC)]) != _MAGIC:
        raise SealError(
            f"{where}: expected an encrypted file, found none of this version; {_REMEDY}",
            file=where,
        )
    prefix = bytes(sealed[len(_MAGIC) : HEADER_BYTES])
    # One by one, so that a thread that ends for whatever reason leaves its chunks unproven.
    proven = bytearray(layout.chunks)
    failed: list[int] = []

    def work(first: int, step: int) -> None:
        for index in range(first, layout.chunks, step):
            if failed:
                return
            nonce = _nonce(prefix, index, index == layout.chunks - 1)
            chunk, to = sealed[layout.sealed(index)], out[layout.clear(index)]
            if cipher.decrypt_into(nonce, chunk, associated, to):
                proven[index] = 1
            else:
                failed.append(index)

    step = max(1, min(_MAX_THREADS, os.cpu_count() or 1, layout.chunks // _CHUNKS_PER_THREAD))
    threads = [threading.Thread(target=work, args=(first, step)) for first in range(1, step)]
    for thread in threads:
        thread.start()
    try:
        work(0, step)
    finally:
        for thread in threads:
            thread.join()
    bad = min(failed, default=proven.find(0))
    if bad >= 0:
        raise SealError(
            f"{where}: chunk {bad} of {layout.chunks} does not decrypt: it was altered, moved "
            f"or cut, or is of another file or bundle; {_REMEDY}",
            file=where,
            chunk=bad,
        )
