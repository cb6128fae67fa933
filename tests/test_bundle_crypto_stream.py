"""Encrypted files: whole and in order, or refused."""

from __future__ import annotations

import io
import os
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maas_sdk.bundle.crypto.primitives import Cipher
from maas_sdk.bundle.crypto.stream import HEADER_BYTES, clear_size, decrypt_into, encrypt
from maas_sdk.errors import SealError

KEY = bytes(range(32))
PREFIX = b"prefix7"
CHUNK = 64


def seal(data: bytes, *, associated: bytes = b"a", prefix: bytes = PREFIX) -> bytes:
    out = bytearray()
    encrypt(
        io.BytesIO(data),
        out.extend,
        Cipher(KEY),
        prefix=prefix,
        associated=associated,
        chunk_bytes=CHUNK,
    )
    return bytes(out)


def opened(sealed: bytes, *, associated: bytes = b"a", chunk_bytes: int = CHUNK) -> bytes:
    out = bytearray(clear_size(len(sealed), chunk_bytes, "w"))
    decrypt_into(
        memoryview(sealed),
        memoryview(out),
        Cipher(KEY),
        associated=associated,
        chunk_bytes=chunk_bytes,
        where="w",
    )
    return bytes(out)


def chunks(sealed: bytes) -> list[bytes]:
    body, full = sealed[HEADER_BYTES:], CHUNK + 16
    return [body[at : at + full] for at in range(0, len(body), full)]


@given(st.binary(max_size=5 * CHUNK))
def test_what_was_encrypted_comes_back(data: bytes) -> None:
    """Any bytes, at the cost of a header and a tag for each chunk."""
    sealed = seal(data)
    count = max(1, -(-len(data) // CHUNK))
    assert len(sealed) == HEADER_BYTES + len(data) + 16 * count
    assert clear_size(len(sealed), CHUNK, "w") == len(data)
    assert opened(sealed) == data


def test_a_source_may_give_less_than_it_is_asked_for() -> None:
    """A short read is not the end of a file."""

    class Crumbs(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 5))

    data = bytes(range(200))
    out = bytearray()
    encrypt(
        Crumbs(data),
        out.extend,
        Cipher(KEY),
        prefix=PREFIX,
        associated=b"a",
        chunk_bytes=CHUNK,
    )
    assert out == seal(data)


def test_many_chunks_are_decrypted_on_several_threads() -> None:
    """In parallel the bytes are the same, and a bad chunk is found by whichever thread has it."""
    data = bytes(range(256)) * 64
    sealed = seal(data)
    assert opened(sealed) == data
    for index in (0, 1, 100, 255):
        bad = bytearray(sealed)
        bad[HEADER_BYTES + index * (CHUNK + 16)] ^= 1
        with pytest.raises(SealError, match=rf"w: chunk {index} of 256 does not decrypt"):
            opened(bytes(bad))


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor, one thread")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_fails_proves_nothing() -> None:
    """Whatever ends one of the threads, what it did not decrypt is not handed out."""

    class Broken(Cipher):
        def decrypt_into(self, nonce: bytes, *rest: Any) -> bool:
            if threading.current_thread() is not threading.main_thread():
                raise MemoryError
            return super().decrypt_into(nonce, *rest)

    sealed = seal(bytes(64 * CHUNK))
    out = memoryview(bytearray(64 * CHUNK))
    with pytest.raises(SealError, match="w: chunk 1 of 64 does not decrypt"):
        decrypt_into(
            memoryview(sealed),
            out,
            Broken(KEY),
            associated=b"a",
            chunk_bytes=CHUNK,
            where="w",
        )


def test_the_format_is_pinned() -> None:
    """What was sealed once can be opened by every later release."""
    data = bytes(range(70))
    sealed = seal(data)
    assert sealed.hex() == (
        "6d6161737365616c01707265666978373131650a2da55948bd794fe1521abbd1de9d26a7dcff7884"
        "f8a62de8f2d17649fdb535842e378709f1584744b049ada984fd2c345a140c58f48559bc333c3d6e"
        "805a2708066ed014aa6d2fce872d278085c137a08b2fe85f0078f4d9b1c47010d51f5e82d0bf"
    )


SEALED = seal(bytes(range(256)))


@given(at=st.integers(0, len(SEALED) - 1), bit=st.integers(0, 7))
@settings(max_examples=300)
def test_a_flipped_bit_anywhere_is_refused(at: int, bit: int) -> None:
    """In the header, a chunk or a tag."""
    bad = bytearray(SEALED)
    bad[at] ^= 1 << bit
    with pytest.raises(SealError):
        opened(bytes(bad))


@given(st.integers(0, len(SEALED) - 1))
@settings(max_examples=300)
def test_a_cut_anywhere_is_refused(at: int) -> None:
    """Also between two chunks, where every chunk that is left is whole."""
    with pytest.raises(SealError):
        opened(SEALED[:at])


@given(st.lists(st.sampled_from(range(4)), min_size=0, max_size=8))
@settings(max_examples=300)
def test_chunks_in_another_order_are_refused(order: list[int]) -> None:
    """Moved, missing, repeated: only 0, 1, 2, 3 opens."""
    parts = chunks(SEALED)
    assert len(parts) == 4
    mixed = SEALED[:HEADER_BYTES] + b"".join(parts[index] for index in order)
    if order == [0, 1, 2, 3]:
        assert opened(mixed) == bytes(range(256))
    else:
        with pytest.raises(SealError):
            opened(mixed)


@given(st.binary(max_size=300))
def test_junk_is_refused(data: bytes) -> None:
    """As is anything appended to a whole file."""
    with pytest.raises(SealError):
        opened(data)
    with pytest.raises(SealError):
        opened(SEALED + (data or b"\0"))


@pytest.mark.parametrize(
    ("sealed", "how"),
    [
        (seal(bytes(100), associated=b"b"), {}),
        (SEALED, {"chunk_bytes": CHUNK + 1}),
        (seal(bytes(100), prefix=b"PREFIX7")[:HEADER_BYTES] + SEALED[HEADER_BYTES:], {}),
    ],
)
def test_what_is_of_another_file_is_refused(sealed: bytes, how: dict[str, Any]) -> None:
    """Another path, another size of chunk, another file's header."""
    with pytest.raises(SealError):
        opened(sealed, **how)
