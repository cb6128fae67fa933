"""Files of an opened bundle, read and checked against the manifest.

The rule: ``read`` and ``check`` compare sha256 before a byte is used. Files of an
encrypted bundle are read decrypted, into memory of this process alone.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from maas_sdk.bundle.files.weights import Weights, map_file, weights_in
from maas_sdk.bundle.manifest import FileEntry, Manifest
from maas_sdk.errors import ConfigError, CorruptError, NotFoundError

if TYPE_CHECKING:
    from maas_sdk.bundle.crypto.encryption import Vault

__all__ = ["REMEDY", "Bundle", "check_digest", "open_file", "read_small", "wrong_size"]

REMEDY: Final = "export or copy the bundle again"


class Bundle:
    """A bundle whose files have the names and sizes that its manifest lists.

    Attributes:
        path: the folder.
        manifest: what it says of itself.
        manifest_bytes: the same as it lies there.
        signature: the bytes of ``signature.json``, if it has one.
        signed_by: the trusted key that signed it; None where none was asked for.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        *,
        manifest_bytes: bytes | None = None,
        signature: bytes | None = None,
        signed_by: str | None = None,
        decryption_key: str | None = None,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.manifest_bytes = manifest.to_json() if manifest_bytes is None else manifest_bytes
        self.signature = signature
        self.signed_by = signed_by
        self._decryption_key = decryption_key

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r}, name={self.manifest.name!r})"

    @functools.cached_property
    def _vault(self) -> Vault | None:
        if self.manifest.encryption is None:
            return None
        # Only here, as all that seals need: a plain bundle is opened without.
        from maas_sdk.bundle.crypto.encryption import Vault

        return Vault(self.manifest.encryption, self.manifest_bytes, self._decryption_key)

    def read(self, relative_path: str) -> bytes:
        """Read one file, decrypted if need be; the hash is checked on the very bytes read.

        Raises:
            NotFoundError: the manifest lists no such file.
            CorruptError: the bytes are not those that were sealed.
            SealError: they do not decrypt.
            MachineError: the key is not where it should be.
        """
        entry = self._entry(relative_path)
        with open_file(self.path, relative_path) as file:
            # One byte more than expected tells a file that has grown.
            data = file.read(entry.size_bytes + 1)
        if len(data) != entry.size_bytes:
            raise wrong_size(relative_path, entry.size_bytes, len(data))
        check_digest(relative_path, entry, hashlib.sha256(data).hexdigest())
        return self._vault.read(relative_path, data) if self._vault else data

    def weights(self, relative_path: str, *, checked: bool = True) -> Weights:
        """Open a safetensors file: mapped, or decrypted into memory that is in no file.

        Args:
            relative_path: its path in the bundle.
            checked: compare its hash first. What was encrypted is authenticated in any case.

        Raises:
            NotFoundError: the manifest lists no such file.
            CorruptError: the file is not the one that was sealed, or its header is wrong.
            SealError: it does not decrypt.
            MachineError: the key is not where it should be.
        """
        entry = self._entry(relative_path)
        with open_file(self.path, relative_path) as file:
            stored = map_file(file.fileno())
        if stored.nbytes != entry.size_bytes:
            raise wrong_size(relative_path, entry.size_bytes, stored.nbytes)
        if checked:
            # Of the very pages that are used: another file under this name changes nothing.
            check_digest(relative_path, entry, hashlib.sha256(stored).hexdigest())
        vault = self._vault
        clear = stored if vault is None else vault.open(relative_path, stored)
        return weights_in(clear, relative_path)

    def require_clear(self, wanted: str) -> None:
        """Raise ``ConfigError`` for an encrypted bundle, of which no clear copy may be made."""
        if self.manifest.encryption is not None:
            raise ConfigError(
                f"{self.path} is encrypted, and {wanted} would write what it holds to the disk: "
                "use the bundle that it was made of, and seal the result"
            )

    def check(self, only: Iterable[str] | None = None) -> None:
        """Compare the sha256 of files with the manifest, on the caller's thread.

        Hashing lets other threads run.

        Args:
            only: paths in the bundle; None means every file.

        Raises:
            NotFoundError: the manifest lists no such file.
            CorruptError: names the file, what was expected and what was found.
        """
        for relative_path in sorted(self.manifest.files) if only is None else only:
            entry = self._entry(relative_path)
            with open_file(self.path, relative_path) as file:
                size = os.fstat(file.fileno()).st_size
                if size != entry.size_bytes:
                    raise wrong_size(relative_path, entry.size_bytes, size)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            check_digest(relative_path, entry, digest)

    def _entry(self, relative_path: str) -> FileEntry:
        entry = self.manifest.files.get(relative_path)
        if entry is None:
            raise NotFoundError(
                f"bundle {self.manifest.name!r} has no file {relative_path!r}; it has "
                f"{', '.join(sorted(self.manifest.files)) or 'none'}",
                file=relative_path,
            )
        return entry


def open_file(folder: Path, relative_path: str) -> io.FileIO:
    """Open a file of a bundle. Raises ``CorruptError`` for a link or a missing file."""
    try:
        descriptor = os.open(folder / relative_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise CorruptError(
            f"{relative_path}: expected a plain file, found {error.strerror}; {REMEDY}",
            file=relative_path,
        ) from error
    return open(descriptor, "rb", buffering=0)


def wrong_size(relative_path: str, expected: int, found: int) -> CorruptError:
    """The error for a file of another size than the manifest lists."""
    return CorruptError(
        f"{relative_path}: expected {expected} bytes, found {found}; {REMEDY}",
        file=relative_path,
        expected=expected,
        found=found,
    )


def check_digest(relative_path: str, entry: FileEntry, found: str) -> None:
    """Raise ``CorruptError`` where a file's sha256, in hex, is not the one that is listed."""
    if found != entry.sha256:
        raise CorruptError(
            f"{relative_path}: expected sha256 {entry.sha256}, found {found}; {REMEDY}",
            file=relative_path,
            expected=entry.sha256,
            found=found,
        )


def read_small(folder: Path, name: str, limit: int) -> bytes:
    """Read a whole file of the bundle. Raises ``CorruptError`` for one over ``limit`` bytes."""
    with open_file(folder, name) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise CorruptError(f"{name} is over {limit} bytes; {REMEDY}")
    return data
