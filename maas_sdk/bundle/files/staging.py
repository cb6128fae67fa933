"""A new folder, written beside its target and then renamed to it.

The rule: at every moment, also after kill -9 or a power cut, the target is the old folder, the new
one, or absent where there was none; never a part of one.

- The staging folder is ``.<name>.<pid>-<random>.tmp`` in the target's own parent, so that the
  rename stays inside one file system. Readers skip names that start with a dot.
- A new target is one ``rename``. An existing one is swapped with ``renameat2(RENAME_EXCHANGE)``,
  which has no state in between; the old folder, now under the staging name, is then removed.
  A file system without that call cannot replace a folder without a gap, and is told so.
- Its writer holds a lock (flock) on the staging folder. The kernel drops it when the writer dies,
  whatever its pid becomes, so the next writer of the same target removes just what the dead left.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from maas_sdk.errors import ConfigError, StorageError

__all__ = ["Staging", "disk_errors"]

_RENAME_EXCHANGE: Final = 2  # linux/fs.h
_AT_FDCWD: Final = -100  # fcntl.h
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Staging:
    """Context manager: ``path`` is an empty folder; ``commit`` makes it the target.

    Left without ``commit``, the folder is removed. An ``OSError`` that says the disk is full
    leaves as a ``StorageError``.
    """

    def __init__(self, target: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        # Not resolved: a link as the target is refused below rather than followed.
        self.target = Path(os.path.abspath(target))
        self.overwrite = overwrite
        self._check_target()
        self._done = False

    def __enter__(self) -> Self:
        with disk_errors(self.target):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            _sweep(self.target)
            self.path, self._lock = _make(self.target)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if not self._done:
                _remove(self.path)
        finally:
            os.close(self._lock)
        if isinstance(error, OSError):
            _raise_if_full(error, self.target)

    def commit(self) -> None:
        """Flush every file and folder to the disk, then become the target.

        Raises:
            ConfigError: the target exists and ``overwrite`` is off, or is no folder.
            StorageError: the disk is full, or its file system cannot swap two folders.
        """
        with disk_errors(self.target):
            for folder, _, names in os.walk(self.path, topdown=False):
                for name in names:
                    _flush(os.path.join(folder, name))
                _flush(folder)
            self._check_target()
            if self.target.exists():
                _exchange(self.path, self.target)
                _flush(self.target.parent)
                _remove(self.path)
            else:
                try:
                    os.rename(self.path, self.target)
                except OSError as error:
                    # Another writer was faster; rename never replaces a folder that has files.
                    if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                        raise self._exists() from error
                    raise
                _flush(self.target.parent)
        self._done = True

    def _check_target(self) -> None:
        if self.target.is_symlink() or (self.target.exists() and not self.target.is_dir()):
            raise ConfigError(f"{self.target} is not a folder: choose another path, or remove it")
        if self.target.exists() and not self.overwrite:
            raise self._exists()

    def _exists(self) -> ConfigError:
        return ConfigError(
            f"{self.target} exists already: choose another path, or pass overwrite=True",
            exists=True,
        )


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn "disk full", whatever raises it inside, into a ``StorageError``."""
    try:
        yield
    except OSError as error:
        _raise_if_full(error, target)
        raise


def _raise_if_full(error: OSError, target: Path) -> None:
    if error.errno in _FULL:
        raise StorageError(
            f"{target}: no room to write it ({error.strerror}); nothing was kept: free space "
            "on that disk, or write elsewhere",
            errno=error.errno,
        ) from error


def _make(target: Path) -> tuple[Path, int]:
    """A fresh staging folder and the file descriptor that holds its lock."""
    while True:
        path = target.parent / f".{target.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
        path.mkdir()
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # swept between the two calls
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists():
                return path, lock
        except BlockingIOError:  # a sweeper has it
            pass
        os.close(lock)


def _sweep(target: Path) -> None:
    """Remove what dead writers of the same target left behind."""
    for path in _leftovers(target):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
        except BlockingIOError:  # its writer lives
            pass
        finally:
            os.close(lock)


def _leftovers(target: Path) -> Iterator[Path]:
    prefix = f".{target.name}."
    for name in os.listdir(target.parent):
        if name.startswith(prefix) and name.endswith(".tmp"):
            pid, dash, token = name[len(prefix) : -len(".tmp")].partition("-")
            if dash and pid.isdigit() and len(token) == 8:
                yield target.parent / name


def _remove(path: Path) -> None:
    import shutil  # heavy, and never on the way to a first answer

    shutil.rmtree(path, ignore_errors=True)


def _flush(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step of the file system."""
    import ctypes

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        code = errno.ENOSYS
    else:
        done = renameat2(
            _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
        )
        if done == 0:
            return
        code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        raise StorageError(
            f"{other} exists, and this system cannot swap two folders in one step: write to a "
            "new path, or remove the old folder first"
        )
    raise OSError(code, os.strerror(code), str(other))
