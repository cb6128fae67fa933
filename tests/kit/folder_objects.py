"""Objects in a folder: a bucket that several processes share, with no server.

Each object is a file of its name. A writer fills a file below ``uploads/`` and renames it.

The rule: who compares and replaces holds a lock (flock) on one file of the folder, which the kernel
drops when he dies; readers need none. A file's generation is its time of change in nanoseconds, set
so that it always grows, so the file system must keep at least microseconds.
"""

from __future__ import annotations

import fcntl
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from maas_sdk.bundle.files.staging import disk_errors
from maas_sdk.errors import NotFoundError
from maas_sdk.store.objects import ObjectInfo, sent_otherwise

__all__ = ["FolderObjects"]

_CHUNK_BYTES: Final = 2**20
# Apart from one another, whatever the file system rounds to.
_TICK_NS: Final = 1000


class FolderObjects:
    """``Objects`` in a folder, which is made by the first write.

    Attributes:
        root: the folder.
        url: a name for messages.
    """

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self.root = root
        self.url = f"folder {root}"
        self._clock = clock

    def checksum(self, data: bytes | memoryview, value: int = 0) -> int:
        """Return the CRC-32; a file keeps none, so it only compares a copy with its source."""
        return zlib.crc32(data, value)

    def stat(self, name: str) -> ObjectInfo | None:
        """Return the file's present state."""
        try:
            return _info(name, os.stat(self.root / name))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def find(self, prefix: str) -> list[ObjectInfo]:
        """Return all files whose names start with ``prefix``, by name."""
        found = []
        top = self.root / prefix.rpartition("/")[0]
        for folder, _, names in os.walk(top):
            for file in names:
                name = os.path.relpath(os.path.join(folder, file), self.root)
                if name.startswith(prefix) and not file.startswith("."):
                    info = self.stat(name)
                    found += [info] if info else []
        return sorted(found)

    def read(self, name: str) -> tuple[bytes, ObjectInfo] | None:
        """Read a whole file; a rename meanwhile does not affect an open file."""
        try:
            with open(self.root / name, "rb") as file:
                return file.read(), _info(name, os.fstat(file.fileno()))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_into(self, info: ObjectInfo, start: int, target: memoryview) -> None:
        """Read a range straight into the buffer."""
        try:
            with open(self.root / info.name, "rb", buffering=0) as file:
                file.seek(start)
                done = 0
                if _info(info.name, os.fstat(file.fileno())).generation != info.generation:
                    done = -1
                while 0 <= done < len(target):
                    count = file.readinto(target[done:])
                    if not count:
                        break
                    done += count
        except FileNotFoundError:
            done = -1
        if done != len(target):
            raise NotFoundError(f"{self.url}: object {info.name} is gone", object=info.name)

    def write(self, name: str, data: bytes, *, generation: int) -> ObjectInfo | None:
        """Write a small object where ``generation`` is the present one."""
        with self._draft() as draft:
            draft.write_bytes(data)
            return self._place(draft, name, generation)

    def upload(
        self, name: str, path: Path, *, checksum: int, generation: int = 0
    ) -> ObjectInfo | None:
        """Copy a file in one piece: a disk gains nothing from several."""
        with self._draft() as draft:
            crc = 0
            with open(path, "rb", buffering=0) as source, open(draft, "wb") as target:
                while chunk := source.read(_CHUNK_BYTES):
                    crc = zlib.crc32(chunk, crc)
                    target.write(chunk)
            if crc != checksum:
                raise sent_otherwise(self.url, name, path)
            return self._place(draft, name, generation)

    def refresh(self, info: ObjectInfo) -> ObjectInfo | None:
        """Set the file's time of change to the present."""
        with self._lock():
            if self.stat(info.name) != info:
                return None
            self._stamp(self.root / info.name, info.generation)
            return self.stat(info.name)

    def delete(self, info: ObjectInfo) -> bool:
        """Delete a file that is in the state of ``info``."""
        with self._lock():
            if self.stat(info.name) != info:
                return False
            os.unlink(self.root / info.name)
            return True

    @contextmanager
    def _draft(self) -> Iterator[Path]:
        """Return a new draft file; one left by a dead writer grows old and is collected."""
        draft = self.root / "uploads" / f"{os.getpid()}-{os.urandom(6).hex()}"
        with disk_errors(draft):
            draft.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield draft
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(draft)

    def _place(self, draft: Path, name: str, generation: int) -> ObjectInfo | None:
        target = self.root / name
        with open(draft, "rb+") as file:
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._lock():
            found = self.stat(name)
            if (found.generation if found else 0) != generation:
                return None
            self._stamp(draft, generation)
            os.rename(draft, target)
            descriptor = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            return self.stat(name)

    def _stamp(self, path: Path, before_ns: int) -> None:
        now = max(int(self._clock() * 1e9), before_ns + _TICK_NS)
        os.utime(path, ns=(now, now))

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _info(name: str, found: os.stat_result) -> ObjectInfo:
    changed = found.st_mtime_ns
    return ObjectInfo(name, found.st_size, changed, 0, changed / 1e9, None)
