"""AES-256-GCM and Ed25519; the only file that touches ``cryptography``.

The rule: this module is imported, and the package ``cryptography`` needed, only where a bundle is
sealed or a seal is checked. Bytes that are not authentic are a result here, not an error: only the
caller knows which file they are from.
"""

from __future__ import annotations

from typing import Any, Final

from maas_sdk.errors import DependencyError

__all__ = ["KEY_BYTES", "NONCE_BYTES", "TAG_BYTES", "Cipher", "public_key_of", "sign", "verify"]

# Of an AES-256 key, of an Ed25519 seed and of an Ed25519 public key.
KEY_BYTES: Final = 32
# NIST SP 800-38D 5.2.1.1 recommends 96 bits.
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16


def _missing(error: ModuleNotFoundError) -> DependencyError:
    return DependencyError(
        "signatures and encryption need the package cryptography: pip install 'maas-sdk[seal]'",
        package=error.name,
    )


class Cipher:
    """AES-256-GCM under one key. Thread-safe, and other Python runs meanwhile."""

    def __init__(self, key: bytes) -> None:
        """Take a key of 32 bytes. Raises ``DependencyError`` where the package is not installed."""
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ModuleNotFoundError as error:
            raise _missing(error) from error
        assert len(key) == KEY_BYTES
        self._aead: Any = AESGCM(key)
        self._invalid = InvalidTag

    def encrypt(self, nonce: bytes, data: bytes | memoryview, associated: bytes) -> bytes:
        """Return the ciphertext and its tag; use a nonce only once under a key."""
        sealed: bytes = self._aead.encrypt(nonce, data, associated)
        return sealed

    def decrypt(self, nonce: bytes, sealed: bytes | memoryview, associated: bytes) -> bytes | None:
        """Return the plaintext, or None when key, nonce, bytes or associated data do not match."""
        try:
            data: bytes = self._aead.decrypt(nonce, sealed, associated)
        except self._invalid:
            return None
        return data

    def decrypt_into(
        self, nonce: bytes, sealed: memoryview, associated: bytes, out: memoryview
    ) -> bool:
        """Decrypt into ``out``, 16 bytes shorter than ``sealed``; return False on a mismatch."""
        try:
            self._aead.decrypt_into(nonce, sealed, associated, out)
        except self._invalid:
            return False
        return True


def public_key_of(seed: bytes) -> bytes:
    """The Ed25519 public key of a private one, 32 bytes each."""
    return _private(seed).public_key().public_bytes_raw()  # type: ignore[no-any-return]


def sign(seed: bytes, message: bytes) -> bytes:
    """Ed25519's signature, 64 bytes (RFC 8032, 5.1.6)."""
    return _private(seed).sign(message)  # type: ignore[no-any-return]


def _private(seed: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    return Ed25519PrivateKey.from_private_bytes(seed)


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Return True when the owner of the public key signed the message (RFC 8032, 5.1.7)."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature:
        return False
    return True
