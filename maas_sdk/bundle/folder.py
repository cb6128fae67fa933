"""A bundle as a folder: opened and held to its manifest, or written and sealed.

The rule: nothing of a folder is believed until the manifest's list says the same. Opening compares
names and sizes, which costs a ``stat`` per file; ``read`` and ``check`` compare sha256. A bundle
appears under its name whole or not at all (``staging.py``), and is never changed afterwards.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from maas_sdk.bundle.manifest import MANIFEST, FileEntry, Manifest, check_path
from maas_sdk.errors import BundleError, CorruptError, NotFoundError

__all__ = [
    "MAX_MANIFEST_BYTES",
    "Bundle",
    "BundleWriter",
    "copy_bundle",
    "copy_checked",
    "open_bundle",
]

MAX_MANIFEST_BYTES: Final = 64 * 2**20
_CHUNK_BYTES: Final = 2**20
_REMEDY: Final = "export or copy the bundle again"


class Bundle:
    """A bundle whose files have the names and sizes that its manifest lists.

    Attributes:
        path: the folder.
        manifest: what it says of itself.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r}, name={self.manifest.name!r})"

    def read(self, relative_path: str) -> bytes:
        """The bytes of one file, the hash checked on the very bytes returned.

        Raises:
            NotFoundError: the manifest lists no such file.
            CorruptError: the bytes are not those that were sealed.
        """
        entry = self._entry(relative_path)
        with _open(self.path, relative_path) as file:
            # One byte more than expected tells a file that has grown.
            data = file.read(entry.size_bytes + 1)
        if len(data) != entry.size_bytes:
            raise _wrong_size(relative_path, entry.size_bytes, len(data))
        _check_digest(relative_path, entry, hashlib.sha256(data).hexdigest())
        return data

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
            with _open(self.path, relative_path) as file:
                size = os.fstat(file.fileno()).st_size
                if size != entry.size_bytes:
                    raise _wrong_size(relative_path, entry.size_bytes, size)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            _check_digest(relative_path, entry, digest)

    def _entry(self, relative_path: str) -> FileEntry:
        entry = self.manifest.files.get(relative_path)
        if entry is None:
            raise NotFoundError(
                f"bundle {self.manifest.name!r} has no file {relative_path!r}; it has "
                f"{', '.join(sorted(self.manifest.files)) or 'none'}",
                file=relative_path,
            )
        return entry


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle's folder: read its manifest, compare names and sizes of all files.

    No file but the manifest is read. A folder that a writer swaps for another at this moment is
    opened anew, so that old and new are never mixed.

    Raises:
        NotFoundError: nothing lies at ``path``.
        BundleError: it is a zip file, or a folder without a manifest.
        ManifestError: the manifest breaks the schema.
        CorruptError: a file is missing, extra, a link, or of another size.
    """
    folder = Path(path)
    while True:
        before = _identity(folder)
        try:
            return _open_once(folder)
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


def _open_once(folder: Path) -> Bundle:
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
    if found.pop(MANIFEST) > MAX_MANIFEST_BYTES:
        raise CorruptError(f"{MANIFEST} is over {MAX_MANIFEST_BYTES} bytes; {_REMEDY}")
    manifest = Manifest.from_json((folder / MANIFEST).read_bytes())
    expected = manifest.files
    if missing := sorted(expected.keys() - found.keys()):
        extra = sorted(found.keys() - expected.keys())
        raise CorruptError(
            f"{folder}: missing {', '.join(missing)}; expected the {len(expected)} files of the "
            f"manifest, found {len(found)}"
            + (f", among them unlisted: {', '.join(extra)}" if extra else "")
            + f"; {_REMEDY}",
            missing=missing,
            extra=extra,
        )
    if extra := sorted(found.keys() - expected.keys()):
        raise CorruptError(
            f"{folder}: found {', '.join(extra)}, expected only the {len(expected)} files of the "
            f"manifest: remove what was added, or {_REMEDY}",
            extra=extra,
        )
    for name, entry in expected.items():
        if found[name] != entry.size_bytes:
            raise _wrong_size(name, entry.size_bytes, found[name])
    return Bundle(folder, manifest)


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, int]]:
    """Paths with sizes of all files below; only plain files and folders may be there."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif entry.is_file(follow_symlinks=False):
                yield prefix + entry.name, entry.stat(follow_symlinks=False).st_size
            else:
                kind = "a symbolic link" if entry.is_symlink() else "a special file"
                raise CorruptError(
                    f"{prefix}{entry.name}: expected a plain file, found {kind}; {_REMEDY}",
                    file=prefix + entry.name,
                )


def copy_bundle(bundle: Bundle, target: Path) -> None:
    """Copy a bundle into a folder, which is made if it is not there, every byte checked.

    Raises:
        CorruptError: a file is not the one that was sealed.
    """
    target.mkdir(exist_ok=True)
    for name, entry in bundle.manifest.files.items():
        with _open(bundle.path, name) as file:
            copy_checked(file, target / name, name, entry)
    (target / MANIFEST).write_bytes(bundle.manifest.to_json())


class _Binary(Protocol):
    def read(self, size: int, /) -> bytes: ...


def copy_checked(source: _Binary, target: Path, relative_path: str, entry: FileEntry) -> None:
    """Copy a stream into a new file, and hold size and hash against the manifest on the way.

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
        raise _wrong_size(relative_path, entry.size_bytes, entry.size_bytes - left)
    _check_digest(relative_path, entry, digest.hexdigest())


def _open(folder: Path, relative_path: str) -> io.FileIO:
    try:
        descriptor = os.open(folder / relative_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise CorruptError(
            f"{relative_path}: expected a plain file, found {error.strerror}; {_REMEDY}",
            file=relative_path,
        ) from error
    return open(descriptor, "rb", buffering=0)


def _wrong_size(relative_path: str, expected: int, found: int) -> CorruptError:
    return CorruptError(
        f"{relative_path}: expected {expected} bytes, found {found}; {_REMEDY}",
        file=relative_path,
        expected=expected,
        found=found,
    )


def _check_digest(relative_path: str, entry: FileEntry, found: str) -> None:
    if found != entry.sha256:
        raise CorruptError(
            f"{relative_path}: expected sha256 {entry.sha256}, found {found}; {_REMEDY}",
            file=relative_path,
            expected=entry.sha256,
            found=found,
        )


class BundleWriter:
    """Context manager that writes a bundle beside its target and renames it when sealed.

    Left without ``seal``, it leaves nothing behind. A bundle that is there already stays whole
    until the new one takes its place.

    Attributes:
        path: the temporary folder to write files into, inside the context.

    Raises:
        ConfigError: the target exists and ``overwrite`` is off.
        BundleError: the disk is full; also for an ``OSError`` of that kind inside the context.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        # Only here: to open a bundle, as every cold start does, none of it is needed.
        from maas_sdk.bundle.staging import Staging

        self._staging = Staging(path, overwrite=overwrite)

    def __enter__(self) -> Self:
        self._staging.__enter__()
        self.path = self._staging.path
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
