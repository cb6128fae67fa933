"""``signature.json``: the signature over a bundle's manifest.

Ed25519 over the bytes of ``manifest.json``, which hold the sha256 of every other file. The
signature lies beside the manifest, so a bundle is signed without changing a byte of it. The rule:
where trusted keys are named, the manifest is not even parsed unless one of those keys has signed
its bytes. A public key is its own name.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Final, NamedTuple

from maas_sdk.bundle.crypto import primitives as crypto
from maas_sdk.bundle.crypto.keys import KeyKind, key_text, parse_key, trusted
from maas_sdk.bundle.files import strict_json as read
from maas_sdk.bundle.manifest import MANIFEST, SIGNATURE
from maas_sdk.errors import ConfigError, ManifestError, SealError

__all__ = ["check_signature", "sign_manifest", "signer_of"]

_SCHEMA: Final = 1
_ALGORITHM: Final = "Ed25519"


class _Signed(NamedTuple):
    schema: int
    algorithm: str
    # Of the signer: the public key as text.
    key_id: str
    # Base64.
    signature: str


_SIGNED_IN: Final = read.record(
    _Signed,
    {
        "schema": read.exactly(int),
        "algorithm": read.string,
        "key_id": read.string,
        "signature": read.string,
    },
)


def sign_manifest(manifest: bytes, private_key: bytes) -> bytes:
    """The bytes of ``signature.json`` for the bytes of ``manifest.json``."""
    return _document(crypto.public_key_of(private_key), crypto.sign(private_key, manifest))


def _document(key: bytes, signature: bytes) -> bytes:
    document = {
        "schema": _SCHEMA,
        "algorithm": _ALGORITHM,
        "key_id": key_text(KeyKind.PUBLIC, key),
        "signature": base64.b64encode(signature).decode(),
    }
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def signer_of(manifest: bytes, signature: bytes, where: str) -> str:
    """Return the public key whose owner signed; whether to trust it is the caller's decision.

    Args:
        manifest: the bytes of ``manifest.json``.
        signature: the bytes of ``signature.json``.
        where: what messages call the bundle.

    Raises:
        SealError: not a signature, or not one of these bytes.
        DependencyError: the package ``cryptography`` is not there.
    """
    key, value = _parse(signature, where)
    return _verified(manifest, key, value, where)


def check_signature(
    manifest: bytes, signature: bytes | None, keys: Sequence[str], where: str
) -> str:
    """The trusted key that signed these bytes.

    Args:
        manifest: the bytes of ``manifest.json``.
        signature: the bytes of ``signature.json``; None: there is none.
        keys: public keys, or files of them.
        where: what messages call the bundle.

    Raises:
        SealError: no signature, one by somebody else, or one of other bytes.
        ConfigError: ``keys`` are none.
        DependencyError: the package ``cryptography`` is not there.
        StorageError: a key's file cannot be read.
    """
    allowed = trusted(keys)
    names = ", ".join(key_text(KeyKind.PUBLIC, key) for key in allowed)
    if signature is None:
        raise SealError(
            f"{where} is not signed, and only bundles signed by {names} are opened here: sign it "
            "with maas seal, or take the signed one",
            trusted=names,
        )
    key, value = _parse(signature, where)
    if key not in allowed:
        raise SealError(
            f"{where} is signed by {key_text(KeyKind.PUBLIC, key)}, which is not trusted here; "
            f"trusted are {names}: have it signed by one of those, or add its key",
            trusted=names,
        )
    return _verified(manifest, key, value, where)


def _verified(manifest: bytes, key: bytes, value: bytes, where: str) -> str:
    name = key_text(KeyKind.PUBLIC, key)
    if not crypto.verify(key, manifest, value):
        raise SealError(
            f"{where}: {MANIFEST} is not what {name} signed: it was changed afterwards, or the "
            f"signature is of another bundle; copy the signed bundle again, {SIGNATURE} included",
            key=name,
        )
    return name


def _parse(data: bytes, where: str) -> tuple[bytes, bytes]:
    """Public key and signature."""

    def refusal(fault: object) -> SealError:
        return SealError(f"{where}: {SIGNATURE} is not a signature: {fault}; copy it again")

    try:
        signed: _Signed = _SIGNED_IN(read.decode(data), "signature")
    except (ValueError, RecursionError, ManifestError) as error:
        raise refusal(error) from error
    if (signed.schema, signed.algorithm) != (_SCHEMA, _ALGORITHM):
        raise refusal(
            f"expected schema {_SCHEMA} and {_ALGORITHM}, found {signed.schema} and "
            f"{signed.algorithm!r}"
        )
    try:
        key = parse_key(signed.key_id, KeyKind.PUBLIC, "key_id")
        value = base64.b64decode(signed.signature, validate=True)
    except (ConfigError, binascii.Error, ValueError) as error:
        raise refusal(error) from error
    # One form alone: other spellings of the same would be altered files that pass.
    if data != _document(key, value):
        raise refusal("expected the very bytes that maas seal writes")
    return key, value
