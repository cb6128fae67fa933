"""A signed or encrypted copy of a bundle, written beside the original, which stays as it is.

The rule: the sealed copy holds the files that the manifest lists, every byte checked on the way,
and appears whole or not at all. Encryption comes first, since the signature is over the encrypted
files: checking it needs no other key than the public one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from maas_sdk.bundle.crypto import stream
from maas_sdk.bundle.crypto.encryption import UNWRAPPED, Encryption, associated, unwrap, wrap
from maas_sdk.bundle.crypto.keys import KeyKind, key_id, new_key, read_key
from maas_sdk.bundle.crypto.primitives import Cipher
from maas_sdk.bundle.files.staging import Staging
from maas_sdk.bundle.folder import Bundle, copy_checked, open_bundle
from maas_sdk.bundle.manifest import MANIFEST, SIGNATURE, FileEntry, Manifest
from maas_sdk.bundle.reader import check_digest, open_file, wrong_size
from maas_sdk.bundle.signature import sign_manifest, signer_of
from maas_sdk.errors import ConfigError

__all__ = ["seal_bundle"]


def seal_bundle(
    bundle: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    sign: str | None = None,
    encrypt: str | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write a signed, an encrypted, or a signed and encrypted copy of a bundle.

    One that is encrypted already keeps its data key, which is wrapped by the new key.

    Args:
        bundle: its folder. Whoever signed it, if anyone, it is trusted: you are about to vouch.
        out: the folder to write.
        sign: reference to the private key that signs: ``env:NAME``, ``file:PATH`` or
            ``gcp-secret:projects/…/secrets/…/versions/…``.
        encrypt: reference to the key that wraps the bundle's own. It is kept in the manifest, so
            let it be what the reader will use; ``MAAS_DECRYPTION_KEY`` there names another place.
        overwrite: replace ``out`` if it is there.

    Raises:
        ConfigError: neither is asked for, a key is of another kind, a signature would be lost, or
            ``out`` exists.
        MachineError: a key is not where its reference says, or the package ``cryptography`` is
            missing.
        TransportError: a key is in Secret Manager, which gave no answer.
        BundleError: the bundle cannot be used, its own seal does not hold.
        StorageError: the disk is full.
    """
    if sign is None and encrypt is None:
        raise ConfigError("nothing to do: name a key to sign with, or one to encrypt with")
    # Before any work: what is missing is most often a key.
    private_key = None if sign is None else read_key(sign, KeyKind.PRIVATE)
    key = None if encrypt is None else read_key(encrypt, KeyKind.ENCRYPTION)
    opened = open_bundle(bundle, trusted_keys="any")
    if sign is None and opened.signature is not None:
        raise ConfigError(
            f"{bundle} is signed, and the signature is not one of the encrypted bundle: sign, too"
        )
    if opened.signature is not None:
        # Whoever seals anew vouches for it, and should not vouch for what was altered.
        signer_of(opened.manifest_bytes, opened.signature, str(bundle))
    with Staging(out, overwrite=overwrite) as staging:
        manifest, data = _content(opened, staging.path, encrypt, key)
        (staging.path / MANIFEST).write_bytes(data)
        signature = sign_manifest(data, private_key) if private_key else None
        if signature is not None:
            (staging.path / SIGNATURE).write_bytes(signature)
        staging.commit()
    return Bundle(
        staging.target,
        manifest,
        manifest_bytes=data,
        signature=signature,
        decryption_key=encrypt,
    )


def _content(
    bundle: Bundle, folder: Path, reference: str | None, key: bytes | None
) -> tuple[Manifest, bytes]:
    """Write every file into ``folder``, encrypted if there is a key; return manifest and bytes."""
    manifest = bundle.manifest
    if reference and key and manifest.encryption is None:
        return _encrypted(bundle, folder, reference, key)
    for name, entry in manifest.files.items():
        with open_file(bundle.path, name) as file:
            copy_checked(file, folder / name, name, entry)
    if not (reference and key and manifest.encryption):
        return manifest, bundle.manifest_bytes
    # Files stay as they are: it is their key that is encrypted anew.
    data_key = unwrap(manifest.encryption, bundle.manifest_bytes)
    return _wrapped(manifest, manifest.encryption, data_key, reference, key)


def _encrypted(bundle: Bundle, folder: Path, reference: str, key: bytes) -> tuple[Manifest, bytes]:
    data_key = new_key()
    cipher = Cipher(data_key)
    encryption = Encryption(id=os.urandom(16).hex(), key=reference, key_id=key_id(key))
    files: dict[str, FileEntry] = {}
    prefixes: set[bytes] = set()
    for name in sorted(bundle.manifest.files):
        # Under one key no two files may share a prefix; random ones hardly ever would.
        while (prefix := os.urandom(stream.PREFIX_BYTES)) in prefixes:
            pass
        prefixes.add(prefix)
        files[name] = _encrypt_file(bundle, folder / name, name, cipher, encryption, prefix)
    return _wrapped(replace(bundle.manifest, files=files), encryption, data_key, reference, key)


def _wrapped(
    manifest: Manifest, encryption: Encryption, data_key: bytes, reference: str, key: bytes
) -> tuple[Manifest, bytes]:
    """The manifest with its data key wrapped, and its bytes."""
    encryption = replace(encryption, key=reference, key_id=key_id(key), wrapped_key=UNWRAPPED)
    wrapped = wrap(data_key, key, replace(manifest, encryption=encryption).to_json())
    made = replace(manifest, encryption=replace(encryption, wrapped_key=wrapped))
    return made, made.to_json()


def _encrypt_file(
    bundle: Bundle,
    target: Path,
    name: str,
    cipher: Cipher,
    encryption: Encryption,
    prefix: bytes,
) -> FileEntry:
    """Write one file, held to its hash on the way in and hashed on the way out."""
    target.parent.mkdir(parents=True, exist_ok=True)
    entry = bundle.manifest.files[name]
    clear, sealed = hashlib.sha256(), hashlib.sha256()
    with open_file(bundle.path, name) as source, open(target, "xb") as file:

        def write(data: bytes) -> None:
            sealed.update(data)
            file.write(data)

        stream.encrypt(
            _Hashed(source.read, clear.update),
            write,
            cipher,
            prefix=prefix,
            associated=associated(encryption, name),
            chunk_bytes=encryption.chunk_bytes,
        )
        read_bytes, size = source.tell(), file.tell()
    if read_bytes != entry.size_bytes:
        raise wrong_size(name, entry.size_bytes, read_bytes)
    check_digest(name, entry, clear.hexdigest())
    return FileEntry(size_bytes=size, sha256=sealed.hexdigest())


class _Hashed:
    """A stream whose bytes are hashed as they are read."""

    def __init__(self, read: Callable[[int], bytes], update: Callable[[bytes], None]) -> None:
        self._read, self._update = read, update

    def read(self, size: int, /) -> bytes:
        data = self._read(size)
        self._update(data)
        return data
