"""Object storage: named bytes, the one seam between a remote store and where it is kept.

There are two implementations: a bucket (``gcs.py``), and the memory of this process (here), which
is the fake that tests use and behaves as a bucket does.

The rule: an object appears whole or not at all, and a caller that replaces or deletes one names the
state in which it saw the object. If the state has changed since, nothing happens and the caller is
told.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from maas_sdk.errors import CorruptError, NotFoundError

__all__ = ["MemoryObjects", "ObjectInfo", "Objects", "sent_otherwise"]


class ObjectInfo(NamedTuple):
    """An object in the state in which it was seen."""

    name: str
    size_bytes: int
    # Another one each time that bytes are written under the name; never 0.
    generation: int
    # Another one each time that the object is refreshed.
    revision: int
    # When it was written or refreshed, seconds since the epoch, by the clock of where it is kept.
    changed_s: float
    # What ``Objects.checksum`` says of the bytes that are kept; None: nothing is kept of that kind.
    checksum: int | None


class Objects(Protocol):
    """Named bytes. Safe to use from many threads.

    Raises, in any method:
        ConfigError: the request is none that it takes.
        CredentialsError: no credentials, or no right.
        DependencyError: the package for it is not installed.
        NotFoundError: what is to hold the objects, such as the bucket, does not exist.
        TransportError: no answer came, also after retries.
    """

    @property
    def url(self) -> str:
        """URL of the objects, for messages."""

    def checksum(self, data: bytes | memoryview, value: int = 0) -> int:
        """Extend the checksum ``value`` by ``data``, with the algorithm kept with objects."""

    def stat(self, name: str) -> ObjectInfo | None:
        """Return the object's present state; None where there is none."""

    def find(self, prefix: str) -> list[ObjectInfo]:
        """Return all objects whose names start with ``prefix``, by name."""

    def read(self, name: str) -> tuple[bytes, ObjectInfo] | None:
        """Read a small object, and the state that the bytes belong to."""

    def read_into(self, info: ObjectInfo, start: int, target: memoryview) -> None:
        """Fill ``target`` with the bytes from ``start`` of the generation that was seen.

        Raises:
            NotFoundError: it is gone, or replaced.
        """

    def write(self, name: str, data: bytes, *, generation: int) -> ObjectInfo | None:
        """Write a small object where ``generation`` is the present one; 0: where there is none.

        None: it was another one, and nothing was written; or, after an answer that was lost, ours.
        """

    def upload(
        self, name: str, path: Path, *, checksum: int, generation: int = 0
    ) -> ObjectInfo | None:
        """Write as ``write``, from a file of any size, in parallel parts; resumes when cut.

        Raises:
            CorruptError: what arrived has another checksum, and is not kept.
        """

    def refresh(self, info: ObjectInfo) -> ObjectInfo | None:
        """Renew an object's time without touching its bytes. None: it was in another state."""

    def delete(self, info: ObjectInfo) -> bool:
        """Delete an object that is in the state of ``info``; False: in another, or gone."""


class MemoryObjects:
    """Objects in a dictionary, for tests and experiments.

    Attributes:
        url: a name for messages.
    """

    def __init__(
        self, url: str = "memory://objects", clock: Callable[[], float] = time.time
    ) -> None:
        self.url = url
        self._clock = clock
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[bytes, ObjectInfo]] = {}
        self._generation = 0

    def checksum(self, data: bytes | memoryview, value: int = 0) -> int:
        """Return the CRC-32."""
        return zlib.crc32(data, value)

    def stat(self, name: str) -> ObjectInfo | None:
        """Return the object's present state."""
        with self._lock:
            return self._objects[name][1] if name in self._objects else None

    def find(self, prefix: str) -> list[ObjectInfo]:
        """Return all objects whose names start with ``prefix``, by name."""
        with self._lock:
            return [i for name, (_, i) in sorted(self._objects.items()) if name.startswith(prefix)]

    def read(self, name: str) -> tuple[bytes, ObjectInfo] | None:
        """Return the object's bytes and state."""
        with self._lock:
            return self._objects.get(name)

    def read_into(self, info: ObjectInfo, start: int, target: memoryview) -> None:
        """Copy a range into the buffer."""
        found = self.read(info.name)
        if found is None or found[1].generation != info.generation:
            raise NotFoundError(f"{self.url}: object {info.name} is gone", object=info.name)
        target[:] = found[0][start : start + len(target)]

    def write(self, name: str, data: bytes, *, generation: int) -> ObjectInfo | None:
        """Write an object where ``generation`` is the present one."""
        with self._lock:
            found = self._objects.get(name)
            if (found[1].generation if found else 0) != generation:
                return None
            self._generation += 1
            info = ObjectInfo(name, len(data), self._generation, 1, self._clock(), zlib.crc32(data))
            self._objects[name] = bytes(data), info
            return info

    def upload(
        self, name: str, path: Path, *, checksum: int, generation: int = 0
    ) -> ObjectInfo | None:
        """Store a file in one piece."""
        data = path.read_bytes()
        if zlib.crc32(data) != checksum:
            raise sent_otherwise(self.url, name, path)
        return self.write(name, data, generation=generation)

    def refresh(self, info: ObjectInfo) -> ObjectInfo | None:
        """Give the object a new revision and the present time."""
        with self._lock:
            data, found = self._objects.get(info.name, (b"", None))
            if found is None or not _same(found, info):
                return None
            new = found._replace(revision=found.revision + 1, changed_s=self._clock())
            self._objects[info.name] = data, new
            return new

    def delete(self, info: ObjectInfo) -> bool:
        """Delete an object that is in the state of ``info``."""
        with self._lock:
            found = self._objects.get(info.name)
            if found is None or not _same(found[1], info):
                return False
            del self._objects[info.name]
            return True


def _same(one: ObjectInfo, other: ObjectInfo) -> bool:
    return (one.generation, one.revision) == (other.generation, other.revision)


_REMEDY: Final = "nothing was published; send it again"


def sent_otherwise(url: str, name: str, path: Path) -> CorruptError:
    """Return the error for bytes that changed between this file and the object storage."""
    return CorruptError(
        f"{path}: what arrived at {url} has another checksum than what was checked here: the file "
        f"changed meanwhile, or was garbled on its way; {_REMEDY}",
        object=name,
    )
