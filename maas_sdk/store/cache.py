"""Local cache of a remote store's bundles: fetched once, shared by all processes.

    <folder>/bundles/<sha256 of the manifest>/…     whole bundles
    <folder>/objects/<sha256>                       the same files once more, as hard links

A version that shares files with one that is here fetches only the others. The rules:

- A bundle appears whole or not at all (``staging.py``); one process fetches it, under a lock
  (flock), while the others wait. The kernel drops the locks of a dead process.
- The bound on bytes counts what is here and what is being fetched, whose files have their full size
  from the start. Room is made by removing the bundle that was not used for longest.
- A process that got a bundle holds a shared lock on its folder until it ends, and a bundle that is
  held is not removed: its files may be opened later.
- The cache's content is not trusted: the manifest's hash is the folder's name, names and sizes are
  compared, and opening a bundle compares hashes; one that does not agree is fetched anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

from maas_sdk.bundle.files.staging import Staging
from maas_sdk.bundle.folder import open_bundle
from maas_sdk.bundle.manifest import MANIFEST, FileEntry
from maas_sdk.errors import BundleError, ConfigError, NotFoundError, StorageError
from maas_sdk.store.transfer import allocate

__all__ = ["BundleCache", "default_cache"]

_MAX_BYTES: Final = 20 * 2**30
_LOCKS: Final = 256
# How often, and how far apart, a damaged bundle that somebody holds is looked at.
_PATIENCE: Final = 50
_PAUSE_S: Final = 0.02


def default_cache() -> BundleCache:
    """Return the cache at ``MAAS_BUNDLE_CACHE`` or in the user's cache folder, 20 GiB by default.

    Raises:
        ConfigError: the bound is no number of bytes.
    """
    named = os.environ.get("MAAS_BUNDLE_CACHE")
    if not named:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        named = os.path.join(base, "maas-sdk", "bundles")
    bound = os.environ.get("MAAS_BUNDLE_CACHE_BYTES", str(_MAX_BYTES))
    if not bound.isdecimal() or int(bound) < 1:
        raise ConfigError(
            f"MAAS_BUNDLE_CACHE_BYTES is {bound!r}: expected a number of bytes, such as "
            f"{_MAX_BYTES}"
        )
    return _cache_at(named, int(bound))


@lru_cache
def _cache_at(folder: str, max_bytes: int) -> BundleCache:
    """Return the cache of a folder, one for all stores of a process, so a bundle is held once."""
    return BundleCache(Path(folder), max_bytes=max_bytes)


class BundleCache:
    """Bundles in a folder, by the hash of their manifests. Safe for many threads and processes.

    Attributes:
        folder: where; made by the first that is fetched.
        max_bytes: what all files together may take.
    """

    def __init__(self, folder: Path, *, max_bytes: int = _MAX_BYTES) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.max_bytes = max_bytes
        # By bundle: a descriptor of its folder, with a shared lock.
        self._held: dict[str, int] = {}
        self._mutex = threading.Lock()

    def get(
        self,
        manifest_sha256: str,
        files: Callable[[], Mapping[str, FileEntry]],
        fill: Callable[[Mapping[Path, FileEntry]], None],
    ) -> Path:
        """Return the folder of a bundle, fetched if absent, and hold it until this process ends.

        Args:
            manifest_sha256: which bundle.
            files: all its files by path, the manifest too; asked if it is not here.
            fill: writes the bytes into files that are there with their sizes, or raises.

        Raises:
            StorageError: the folder is somebody else's, cannot be written, or has no room, within
                the bound or on the disk.
        """
        path = self.folder / "bundles" / manifest_sha256
        with self._mutex:
            if self._hold(path):
                return path
            self._prepare()
            with self._lock(f"locks/{int(manifest_sha256[:8], 16) % _LOCKS:03d}"):
                while not self._hold(path):
                    self._fetch(path, files(), fill)
        return path

    def release(self, path: Path) -> None:
        """Allow the removal of a bundle that ``get`` returned."""
        with self._mutex:
            descriptor = self._held.pop(path.name, None)
        if descriptor is not None:
            os.close(descriptor)

    def nbytes(self) -> int:
        """Return the bytes of all files present or on their way, each counted once."""
        return sum(_sizes(self.folder).values())

    def _fetch(
        self,
        path: Path,
        files: Mapping[str, FileEntry],
        fill: Callable[[Mapping[Path, FileEntry]], None],
    ) -> None:
        with Staging(path) as staging:
            missing: dict[str, FileEntry] = {}
            with self._lock("lock"):
                for name, entry in files.items():
                    if not self._link(entry, staging.path / name):
                        missing[name] = entry
                self._make_room(sum(entry.size_bytes for entry in missing.values()), path.name)
                for name, entry in missing.items():
                    allocate(staging.path / name, entry.size_bytes)
            fill({staging.path / name: entry for name, entry in missing.items()})
            for name, entry in missing.items():
                os.chmod(staging.path / name, 0o444)
                with suppress(FileExistsError):
                    os.link(staging.path / name, self.folder / "objects" / entry.sha256)
            staging.commit()

    def _link(self, entry: FileEntry, target: Path) -> bool:
        """Link a file that another bundle has into this one, its bytes checked; True when done."""
        kept = self.folder / "objects" / entry.sha256
        try:
            with open(kept, "rb", buffering=0) as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return False
        if found != entry.sha256:
            kept.unlink()
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(kept, target)
        return True

    def _make_room(self, wanted: int, name: str) -> None:
        """Remove the least recently used until ``wanted`` bytes fit; call under the lock."""
        self._sweep()
        bundles = [path for path in (self.folder / "bundles").iterdir() if path.name[0] != "."]
        for path in sorted(bundles, key=_used_ns):
            if self.nbytes() + wanted <= self.max_bytes:
                return
            if path.name != name and _remove(path):
                self._sweep()
        if (there := self.nbytes()) + wanted > self.max_bytes:
            raise StorageError(
                f"{self.folder}: no room for {wanted} more bytes: {there} are there and in use, "
                f"and the bound is {self.max_bytes}; set MAAS_BUNDLE_CACHE_BYTES higher, or "
                "MAAS_BUNDLE_CACHE to a folder on a larger disk",
                wanted=wanted,
                bound=self.max_bytes,
            )

    def _sweep(self) -> None:
        """Remove leftovers of dead processes, and objects that no bundle holds any more."""
        for path in (self.folder / "bundles").iterdir():
            if path.name[0] == ".":
                _remove(path)
        for path in (self.folder / "objects").iterdir():
            if path.stat().st_nlink == 1:
                path.unlink()

    def _hold(self, path: Path) -> bool:
        """Hold a bundle that is here and whole, and return True; remove one that is not whole."""
        if path.name in self._held:
            if path.is_dir():
                _touch(path)
                return True
            os.close(self._held.pop(path.name))  # somebody has deleted it by hand
        for _ in range(_PATIENCE):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                return False
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                # Meanwhile it may have been removed, or another one put there: look again.
                if not _is_at(descriptor, path):
                    continue
                self._check_owner()
                if _is_whole(path):
                    _touch(path)
                    self._held[path.name], descriptor = descriptor, -1
                    return True
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
            if not _remove(path):
                time.sleep(_PAUSE_S)  # somebody else may have come to look at it
        raise StorageError(
            f"{path}: is not the bundle of its name any more, and a process still uses it: stop "
            "that process, then try again"
        )

    def _prepare(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_owner()
            for name in ("bundles", "objects", "locks"):
                (self.folder / name).mkdir(exist_ok=True)
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(
                f"{self.folder}: cannot be used to keep bundles ({error.strerror}); name a folder "
                "that can be written with MAAS_BUNDLE_CACHE"
            ) from error

    def _check_owner(self) -> None:
        found = self.folder.stat()
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise StorageError(
                f"{self.folder}: others may write to it, and what is in it is run: make it this "
                "user's alone (chmod 700), or name another folder with MAAS_BUNDLE_CACHE"
            )

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        descriptor = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Return True when an open folder still is the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _is_whole(path: Path) -> bool:
    """Return True when a folder is the bundle of its name, as far as names and sizes tell."""
    try:
        open_bundle(path)
        return hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest() == path.name
    except (BundleError, NotFoundError, FileNotFoundError):
        return False


def _touch(path: Path) -> None:
    """Record the use of a bundle; a read-only disk, where nothing is removed, is ignored."""
    with suppress(OSError):
        os.utime(path)


def _used_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _sizes(folder: Path) -> dict[int, int]:
    """Return the sizes of all files by inode: a file with two names counts once."""
    found: dict[int, int] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                status = os.stat(os.path.join(parent, name))
                found[status.st_ino] = status.st_size
    return found


def _remove(path: Path) -> bool:
    """Remove a folder that nobody holds; return True when it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(descriptor, path):
            return False
        # Out of sight first: at no moment is there a part of a bundle under its name.
        hidden = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
        gone = path if path.name[0] == "." else path.rename(hidden)
        import shutil

        shutil.rmtree(gone, ignore_errors=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
