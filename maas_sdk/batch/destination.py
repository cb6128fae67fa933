"""Output of a batch prediction: files, or objects, that appear whole or not at all.

The rule it keeps in a folder: a file is written under a name that starts with a dot, flushed to the
disk, and renamed; so at any moment, also after kill -9 or a power cut, each file that has its own
name is whole. One process writes at a time: it holds a lock that ends with it.

Among objects it is: one is made only where none is, so of two that write the same part one wins,
and the other goes on; what was made is never replaced.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

from maas_sdk.batch.parts import is_ours
from maas_sdk.bundle.files.staging import disk_errors
from maas_sdk.errors import ConfigError, NotFoundError, StorageError

if TYPE_CHECKING:
    from maas_sdk.store.objects import Objects

__all__ = ["Destination", "Folder", "ObjectPlace"]

_TEMPORARY: Final = ".writing-"


class Destination(Protocol):
    """A set of files by name, each of which is written once."""

    def names(self) -> set[str]:
        """Return the names of the whole files."""
        ...

    def read(self, name: str) -> bytes:
        """Read a file."""
        ...

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        """Write a file by ``write``, so that it appears as a whole."""
        ...


class Folder:
    """A folder on a disk: a ``Destination``, locked by the context.

    Args:
        path: made if it is not there.

    Raises:
        ConfigError: it is no folder; another process writes there.
        StorageError: it cannot be written to; the disk is full, from ``put`` too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{path} is not a folder: choose another one for the answers")
        try:
            with disk_errors(path):
                path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(f"{path}: cannot be written to: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise ConfigError(
                f"{path}: another process writes its answers there: wait for it, or choose another "
                "folder"
            ) from error

    def __enter__(self) -> Self:
        # What a writer that was killed has left; no other one lives while the lock is held.
        for leftover in self.path.glob(f"{_TEMPORARY}*"):
            leftover.unlink()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def names(self) -> set[str]:
        """Return the files' names; those that start with a dot do not count."""
        return {name for name in os.listdir(self.path) if not name.startswith(".")}

    def read(self, name: str) -> bytes:
        """Read a file."""
        return (self.path / name).read_bytes()

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        """Write a file, replacing one of that name."""
        temporary = self.path / f"{_TEMPORARY}{name}"
        try:
            with disk_errors(self.path / name):
                write(temporary)
                _flush(temporary)
                os.replace(temporary, self.path / name)
                os.fsync(self._lock)
        finally:
            temporary.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the files of an earlier batch prediction, and no others."""
        for name in sorted(self.names()):
            if is_ours(name):
                (self.path / name).unlink()
        os.fsync(self._lock)


class ObjectPlace:
    """Objects below a prefix: a ``Destination`` that several processes may share.

    Args:
        objects: those of the prefix, and no others.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def names(self) -> set[str]:
        """Return the objects' names."""
        return {info.name for info in self._objects.find("")}

    def read(self, name: str) -> bytes:
        """Read an object."""
        found = self._objects.read(name)
        if found is None:
            raise NotFoundError(f"{self._objects.url}/{name} is not there any more")
        return found[0]

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        """Write an object; one that exists, of another worker on the same job, stays."""
        # Only here: a folder knows no store.
        from maas_sdk.store.transfer import file_checksum

        with tempfile.TemporaryDirectory(prefix="maas-batch-") as folder:
            path = Path(folder) / name
            write(path)
            self._objects.upload(name, path, checksum=file_checksum(self._objects, path))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
