"""Encrypted bundles: the manifest's field ``encryption``, and the key that decrypts the files.

Every file but the manifest and its signature is encrypted (``stream.py``) with a data key that is
made for this one bundle, and that key lies in the manifest, wrapped by a key of the user's, which
is named by reference. The rule: the wrapping authenticates the whole manifest, and with it the
sha256 of all files, so that a holder of the key also knows that no file was exchanged.

Decrypted bytes are in anonymous memory of this process alone, never in a file.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
from dataclasses import dataclass
from typing import Any, Final

from maas_sdk.bundle.crypto.keys import KeyKind, key_id, read_key
from maas_sdk.bundle.crypto.primitives import KEY_BYTES, NONCE_BYTES, TAG_BYTES, Cipher
from maas_sdk.bundle.crypto.stream import clear_size, decrypt_into
from maas_sdk.bundle.files import strict_json as read
from maas_sdk.errors import ManifestError, SealError

__all__ = [
    "DECRYPTION_KEY",
    "UNWRAPPED",
    "Encryption",
    "Vault",
    "associated",
    "read_encryption",
    "unwrap",
    "wrap",
]

# The environment's reference to the key, where it is not the one that the manifest names.
DECRYPTION_KEY: Final = "MAAS_DECRYPTION_KEY"

_ALGORITHM: Final = "AES-256-GCM"
_MIN_CHUNK_BYTES, _MAX_CHUNK_BYTES = 64, 2**26
_WRAPPED_BYTES: Final = NONCE_BYTES + KEY_BYTES + TAG_BYTES
# Stands for the wrapped key while it is being wrapped.
UNWRAPPED: Final = "0" * 2 * _WRAPPED_BYTES
_WRAPPING: Final = b"maas-sdk key 1\0"
_HEX: Final = re.compile(r"(?:[0-9a-f]{2})*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Encryption:
    """Encryption of a bundle's files: the manifest's field ``encryption``."""

    # AES-256-GCM, the only one.
    algorithm: str = _ALGORITHM
    # Clear bytes of a chunk.
    chunk_bytes: int = 2**20
    # Of this one sealing: 32 random hex digits.
    id: str
    # Reference to the key that wraps the data key; the environment may name another place for it.
    key: str
    # Tells whether a key is that one, 32 hex digits (``keys.key_id``).
    key_id: str
    # Nonce, data key and tag in hex.
    wrapped_key: str = UNWRAPPED

    def __post_init__(self) -> None:
        if self.algorithm != _ALGORITHM:
            raise ManifestError(
                f"encryption.algorithm: expected {_ALGORITHM}, got {self.algorithm!r}"
            )
        if not _MIN_CHUNK_BYTES <= self.chunk_bytes <= _MAX_CHUNK_BYTES:
            raise ManifestError(
                f"encryption.chunk_bytes: expected {_MIN_CHUNK_BYTES} to {_MAX_CHUNK_BYTES}, got "
                f"{self.chunk_bytes}"
            )
        for name, digits in (("id", 32), ("key_id", 32), ("wrapped_key", 2 * _WRAPPED_BYTES)):
            value = getattr(self, name)
            if len(value) != digits or not _HEX.fullmatch(value):
                raise ManifestError(f"encryption.{name}: expected {digits} lower-case hex digits")

    def document(self) -> dict[str, object]:
        """The record as JSON's values; ``read_encryption`` reads them."""
        return {name: getattr(self, name) for name in _FIELDS}


_FIELDS: Final = {
    "algorithm": read.string,
    "chunk_bytes": read.exactly(int),
    "id": read.string,
    "key": read.string,
    "key_id": read.string,
    "wrapped_key": read.string,
}
_ENCRYPTION_IN: Final = read.record(Encryption, _FIELDS)


def read_encryption(value: Any, path: str) -> Encryption:
    """The record from JSON's values; a reader of ``strict_json``."""
    found: Encryption = _ENCRYPTION_IN(value, path)
    return found


def associated(encryption: Encryption, relative_path: str) -> bytes:
    """Return the associated data authenticated with each chunk: the file's path and its bundle."""
    return f"maas-sdk file 1\0{encryption.id}\0{relative_path}".encode()


def wrap(data_key: bytes, key: bytes, manifest: bytes) -> str:
    """Wrap a data key in the form that the manifest holds.

    Args:
        data_key: 32 bytes.
        key: the user's, 32 bytes.
        manifest: the bytes of ``manifest.json`` with zeros for the wrapped key.
    """
    nonce = os.urandom(NONCE_BYTES)
    return (nonce + Cipher(key).encrypt(nonce, data_key, _WRAPPING + manifest)).hex()


def unwrap(encryption: Encryption, manifest: bytes, reference: str | None = None) -> bytes:
    """Unwrap the data key of a bundle.

    Args:
        encryption: the manifest's.
        manifest: the bytes of ``manifest.json``.
        reference: to the user's key; None: ``MAAS_DECRYPTION_KEY``, or else what the manifest says.

    Raises:
        ConfigError: the reference is none, or what it names is not a key.
        MachineError: there is no key in that place, or the package is not there.
        TransportError: Secret Manager gave no answer.
        SealError: another key, or another manifest than that of then.
    """
    place = reference or os.environ.get(DECRYPTION_KEY) or encryption.key
    key = read_key(place, KeyKind.ENCRYPTION)
    if key_id(key) != encryption.key_id:
        raise SealError(
            f"the key at {place} is {key_id(key)}, and the bundle was encrypted with "
            f"{encryption.key_id}: name its place in {DECRYPTION_KEY}",
            expected=encryption.key_id,
            found=key_id(key),
        )
    spelled = encryption.wrapped_key.encode()
    wrapped = bytes.fromhex(encryption.wrapped_key)
    data_key = Cipher(key).decrypt(
        wrapped[:NONCE_BYTES],
        wrapped[NONCE_BYTES:],
        _WRAPPING + manifest.replace(spelled, UNWRAPPED.encode()),
    )
    if data_key is None or manifest.count(spelled) != 1:
        raise SealError(
            "the manifest is not the one that was encrypted with this key: it was changed "
            "afterwards; copy the sealed bundle again"
        )
    return data_key


class Vault:
    """The decrypted view of one encrypted bundle's files. Thread-safe."""

    def __init__(self, encryption: Encryption, manifest: bytes, reference: str | None) -> None:
        """Fetch and unwrap the key. Arguments and errors are those of ``unwrap``."""
        self._encryption = encryption
        self._cipher = Cipher(unwrap(encryption, manifest, reference))

    def read(self, relative_path: str, sealed: bytes) -> bytes:
        """Decrypt a file of the bundle from its encrypted bytes.

        Raises:
            SealError: they are altered, cut, or another file's.
        """
        clear = bytearray(self._size(relative_path, len(sealed)))
        self._decrypt(relative_path, memoryview(sealed), memoryview(clear))
        return bytes(clear)

    def open(self, relative_path: str, sealed: memoryview) -> memoryview:
        """Decrypt a file into anonymous, page-aligned memory; else as ``read``."""
        clear = _anonymous(self._size(relative_path, sealed.nbytes))
        self._decrypt(relative_path, sealed, clear)
        return clear.toreadonly()

    def _size(self, relative_path: str, sealed_bytes: int) -> int:
        return clear_size(sealed_bytes, self._encryption.chunk_bytes, relative_path)

    def _decrypt(self, relative_path: str, sealed: memoryview, out: memoryview) -> None:
        decrypt_into(
            sealed,
            out,
            self._cipher,
            associated=associated(self._encryption, relative_path),
            chunk_bytes=self._encryption.chunk_bytes,
            where=relative_path,
        )


def _anonymous(nbytes: int) -> memoryview:
    """Return memory of no file, left out of core dumps."""
    if not nbytes:
        return memoryview(bytearray())
    mapping = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Linux; a hint, as huge pages are: fewer faults while it is filled.
    for advice in ("MADV_DONTDUMP", "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError, AttributeError):
            mapping.madvise(getattr(mmap, advice))
    return memoryview(mapping)
