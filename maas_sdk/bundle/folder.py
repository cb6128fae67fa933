"""A bundle as a folder: opened and checked against its manifest, or written and sealed.

The rule: no file of a folder is trusted unless the manifest lists it. Opening compares names and
sizes, which costs a ``stat`` per file; hashes are compared in ``reader.py``. Where trusted keys are
named, the list itself is trusted only with their signature (``signature.py``). A bundle
appears under its name whole or not at all (``staging.py``), and is never changed afterwards.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, Protocol, Self

from maas_sdk.bundle.manifest import MANIFEST, SIGNATURE, FileEntry, Manifest, check_path
from maas_sdk.bundle.reader import (
    REMEDY,
    Bundle,
    check_digest,
    open_file,
    read_small,
    wrong_size,
)
from maas_sdk.errors import BundleError, ConfigError, CorruptError, NotFoundError

__all__ = [
    "MAX_MANIFEST_BYTES",
    "MAX_SIGNATURE_BYTES",
    "Bundle",
    "BundleWriter",
    "TrustedKeys",
    "copy_bundle",
    "copy_checked",
    "open_bundle",
    "signed_by",
]

MAX_MANIFEST_BYTES: Final = 64 * 2**20
MAX_SIGNATURE_BYTES: Final = 4096
_CHUNK_BYTES: Final = 2**20
_TRUSTED_KEYS: Final = "MAAS_TRUSTED_KEYS"

# Public keys, or files of them, one of which must have signed; None: those that MAAS_TRUSTED_KEYS
# lists, if any; "any": whoever, also where the environment lists some.
TrustedKeys = Sequence[str] | Literal["any"] | None


def open_bundle(
    path: str | os.PathLike[str],
    *,
    trusted_keys: TrustedKeys = None,
    decryption_key: str | None = None,
) -> Bundle:
    """Open a bundle's folder: read its manifest, compare names and sizes of all files.

    No file but the manifest and its signature is read. A folder that a writer swaps for another at
    this moment is opened anew, so that old and new are never mixed.

    Args:
        path: the folder.
        trusted_keys: whose signature it must have, see ``TrustedKeys``.
        decryption_key: reference to the key of an encrypted one; None: ``MAAS_DECRYPTION_KEY``, or
            the place that the manifest names. It is fetched when a file is read.

    Raises:
        NotFoundError: nothing lies at ``path``.
        BundleError: it is a zip file, or a folder without a manifest.
        ManifestError: the manifest breaks the schema.
        CorruptError: a file is missing, extra, a link, or of another size.
        SealError: a signature was asked for, and none of a trusted key is there.
        ConfigError: the trusted keys are none.
        MachineError: a trusted key's file cannot be read, or the package ``cryptography`` is
            missing.
    """
    folder = Path(path)
    while True:
        before = _identity(folder)
        try:
            return _open_once(folder, trusted_keys, decryption_key)
        except (BundleError, FileNotFoundError):
            if _identity(folder) == before:
                raise


def _identity(folder: Path) -> tuple[int, int, int]:
    # A new folder may get the inode of one just removed; renaming sets its ctime.
    try:
        status = os.stat(folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(
            f"no bundle at {folder}: nothing is there; check the path", path=str(folder)
        ) from error
    return status.st_dev, status.st_ino, status.st_ctime_ns


def signed_by(
    manifest: bytes, signature: bytes | None, trusted_keys: TrustedKeys, where: str
) -> str | None:
    """The trusted key that signed a manifest's bytes; None where no signature is asked for.

    Raises:
        SealError: a signature was asked for, and none of a trusted key is there.
        ConfigError: the trusted keys are none.
        MachineError: a trusted key's file cannot be read, or the package ``cryptography`` is
            missing.
    """
    if trusted_keys is None:
        listed = os.environ.get(_TRUSTED_KEYS, "")
        trusted_keys = listed.split(",") if listed else "any"
    if isinstance(trusted_keys, str):
        if trusted_keys != "any":
            raise ConfigError("trusted_keys: expected a list of keys, got one text")
        return None
    from maas_sdk.bundle.signature import check_signature

    return check_signature(manifest, signature, trusted_keys, where)


def _open_once(folder: Path, trusted_keys: TrustedKeys, decryption_key: str | None) -> Bundle:
    if not folder.is_dir():
        with open(folder, "rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        what = (
            "is a zip file: unpack it first, with "
            f"maas_sdk.bundle.archive.unzip_bundle({str(folder)!r}, <folder>)"
            if zipped
            else "is a file, not a bundle's folder: check the path"
        )
        raise BundleError(f"{folder} {what}")
    found = dict(_walk(str(folder), ""))
    if MANIFEST not in found:
        raise BundleError(
            f"{folder} is no bundle: it has no {MANIFEST}; give the folder that holds one"
        )
    manifest_bytes = read_small(folder, MANIFEST, MAX_MANIFEST_BYTES)
    signature = read_small(folder, SIGNATURE, MAX_SIGNATURE_BYTES) if SIGNATURE in found else None
    # First of all: nothing is parsed that a stranger may have written.
    signer = signed_by(manifest_bytes, signature, trusted_keys, str(folder))
    manifest = Manifest.from_json(manifest_bytes)
    found = {name: size for name, size in found.items() if name not in (MANIFEST, SIGNATURE)}
    expected = manifest.files
    if missing := sorted(expected.keys() - found.keys()):
        extra = sorted(found.keys() - expected.keys())
        raise CorruptError(
            f"{folder}: missing {', '.join(missing)}; expected the {len(expected)} files of the "
            f"manifest, found {len(found)}"
            + (f", among them unlisted: {', '.join(extra)}" if extra else "")
            + f"; {REMEDY}",
            missing=missing,
            extra=extra,
        )
    if extra := sorted(found.keys() - expected.keys()):
        raise CorruptError(
            f"{folder}: found {', '.join(extra)}, expected only the {len(expected)} files of the "
            f"manifest: remove what was added, or {REMEDY}",
            extra=extra,
        )
    for name, entry in expected.items():
        if found[name] != entry.size_bytes:
            raise wrong_size(name, entry.size_bytes, found[name])
    return Bundle(
        folder,
        manifest,
        manifest_bytes=manifest_bytes,
        signature=signature,
        signed_by=signer,
        decryption_key=decryption_key,
    )


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield paths and sizes of all files below, refusing all but plain files and folders."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif entry.is_file(follow_symlinks=False):
                yield prefix + entry.name, entry.stat(follow_symlinks=False).st_size
            else:
                kind = "a symbolic link" if entry.is_symlink() else "a special file"
                raise CorruptError(
                    f"{prefix}{entry.name}: expected a plain file, found {kind}; {REMEDY}",
                    file=prefix + entry.name,
                )


def copy_bundle(bundle: Bundle, target: Path) -> None:
    """Copy a bundle into a folder, made if absent, checking every byte.

    Raises:
        CorruptError: a file is not the one that was sealed.
    """
    target.mkdir(exist_ok=True)
    for name, entry in bundle.manifest.files.items():
        with open_file(bundle.path, name) as file:
            copy_checked(file, target / name, name, entry)
    (target / MANIFEST).write_bytes(bundle.manifest_bytes)
    if bundle.signature is not None:
        (target / SIGNATURE).write_bytes(bundle.signature)


class _Binary(Protocol):
    def read(self, size: int, /) -> bytes: ...


def copy_checked(source: _Binary, target: Path, relative_path: str, entry: FileEntry) -> None:
    """Copy a stream into a new file, checking size and hash against the manifest on the way.

    Never takes more than one byte beyond the size that the manifest declares.

    Raises:
        CorruptError: the stream is longer, shorter or of other bytes.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), entry.size_bytes
    with open(target, "xb") as file:
        while chunk := source.read(min(_CHUNK_BYTES, left + 1)):
            left -= len(chunk)
            if left < 0:
                break
            digest.update(chunk)
            file.write(chunk)
    if left:
        raise wrong_size(relative_path, entry.size_bytes, entry.size_bytes - left)
    check_digest(relative_path, entry, digest.hexdigest())


class BundleWriter:
    """Context manager that writes a bundle beside its target and renames it when sealed.

    Left without ``seal``, it leaves nothing behind. A bundle that is there already stays whole
    until the new one takes its place.

    Attributes:
        path: the temporary folder to write files into, inside the context.

    Raises:
        ConfigError: the target exists and ``overwrite`` is off.
        StorageError: the disk is full; also for an ``OSError`` of that kind inside the context.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        # Only here: to open a bundle, as every cold start does, none of it is needed.
        from maas_sdk.bundle.files.staging import Staging

        self._staging = Staging(path, overwrite=overwrite)

    def __enter__(self) -> Self:
        self._staging.__enter__()
        self.path = self._staging.path
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._staging.__exit__(kind, error, trace)

    def add(self, relative_path: str, data: bytes | bytearray | memoryview) -> None:
        """Write one file of the bundle.

        Raises:
            ManifestError: the path leaves the bundle, or is the manifest's.
        """
        check_path(relative_path)
        target = self.path / relative_path
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb") as file:
            file.write(data)

    def seal(self, manifest: Manifest) -> Bundle:
        """List every file in the manifest, write it, and make the folder the target.

        Args:
            manifest: its ``files`` are replaced by what lies in the folder.
        """
        files: dict[str, FileEntry] = {}
        for name, size in sorted(_walk(str(self.path), "")):
            with open(self.path / name, "rb", buffering=0) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            files[name] = FileEntry(size_bytes=size, sha256=digest)
        sealed = replace(manifest, files=files)
        (self.path / MANIFEST).write_bytes(sealed.to_json())
        self._staging.commit()
        return Bundle(self._staging.target, sealed)
