"""Upload and download of a bundle's files as objects that are named by their content.

    objects/<first two hex digits>/<sha256>

The rule: the same bytes are one object, sent once, whichever model or version they belong to; and
bytes that are read back are trusted when their sha256 is the object's name. On the way there each
file is hashed before it is sent; on the way back ranges come side by side, straight into the mapped
file, and are hashed in order behind those that have arrived.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from maas_sdk.bundle.files.staging import disk_errors
from maas_sdk.bundle.manifest import FileEntry
from maas_sdk.errors import CorruptError, TransportError
from maas_sdk.store.objects import ObjectInfo, Objects

__all__ = [
    "RANGE_BYTES",
    "allocate",
    "download",
    "fetch",
    "file_checksum",
    "object_name",
    "pull",
    "push",
]

RANGE_BYTES: Final = 8 * 2**20
_CHUNK_BYTES: Final = 2**20
_THREADS: Final = 8


def object_name(sha256: str) -> str:
    """Return the name of the object for the bytes with this hash."""
    return f"objects/{sha256[:2]}/{sha256}"


def push(objects: Objects, files: Mapping[Path, FileEntry], *, fresh_s: float) -> None:
    """Make sure that each file has an object that is not about to be collected.

    Args:
        objects: where to.
        files: by path on this machine; all are hashed, those that are there are not sent.
        fresh_s: an object that was there before this time, in seconds since the epoch, is
            refreshed.

    Raises:
        CorruptError: a file is not the one that its manifest lists, or arrived as another.
    """
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="maas-push") as pool:
        futures = [
            pool.submit(_push_one, objects, path, entry, fresh_s)
            # Large ones first: the last to end shall be a small one.
            for path, entry in sorted(files.items(), key=lambda item: -item[1].size_bytes)
        ]
        _all(futures)


def _push_one(objects: Objects, path: Path, entry: FileEntry, fresh_s: float) -> None:
    checksum = _checked(objects, path, entry)
    name = object_name(entry.sha256)
    for _ in range(5):
        found = objects.stat(name)
        if found is None:
            if objects.upload(name, path, checksum=checksum):
                return
        elif found.size_bytes != entry.size_bytes or found.checksum not in (None, checksum):
            # Other bytes under this name: an upload that went wrong, or somebody's hand.
            if objects.upload(name, path, checksum=checksum, generation=found.generation):
                return
        elif found.changed_s >= fresh_s or objects.refresh(found):
            return
    raise TransportError(
        f"{objects.url}: {name} changes faster than it can be published; try again", object=name
    )


def _checked(objects: Objects, path: Path, entry: FileEntry) -> int:
    """Return the transport's checksum of a file, after checking size and hash of its entry."""
    digest, checksum, size = hashlib.sha256(), 0, 0
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            checksum = objects.checksum(chunk, checksum)
            size += len(chunk)
    if (size, digest.hexdigest()) != (entry.size_bytes, entry.sha256):
        raise CorruptError(
            f"{path}: expected {entry.size_bytes} bytes with sha256 {entry.sha256}, found {size} "
            f"with {digest.hexdigest()}; nothing was published: export or copy the bundle again",
            file=str(path),
            expected=entry.sha256,
            found=digest.hexdigest(),
        )
    return checksum


def fetch(objects: Objects, entry: FileEntry) -> bytes:
    """Return the bytes of a small object. Raises ``CorruptError`` if they are gone or others."""
    found = objects.read(object_name(entry.sha256))
    if found is None:
        raise _lost(objects, entry)
    if hashlib.sha256(found[0]).hexdigest() != entry.sha256:
        raise _spoilt(objects, entry)
    return found[0]


def allocate(path: Path, size_bytes: int) -> None:
    """Make a file of that size, with disk space reserved for all of it.

    Raises:
        StorageError: the disk is full. Written through a map, that would end the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(path), open(path, "xb") as file:
        if size_bytes:
            os.posix_fallocate(file.fileno(), 0, size_bytes)


def download(objects: Objects, info: ObjectInfo, path: Path) -> None:
    """Write an object, whatever its name, to a new file: the bytes of the state that was seen.

    Raises:
        NotFoundError: it is in another state, or gone.
        CorruptError: it came with another checksum, twice.
        StorageError: the disk is full.
    """
    allocate(path, info.size_bytes)
    for _ in range(2):
        if info.size_bytes:
            with (
                _mapped(path, info.size_bytes) as view,
                ThreadPoolExecutor(_THREADS, thread_name_prefix="maas-download") as pool,
            ):

                def read(start: int, view: memoryview = view) -> None:
                    with view[start : start + RANGE_BYTES] as target:
                        objects.read_into(info, start, target)

                _all([pool.submit(read, start) for start in range(0, len(view), RANGE_BYTES)])
        if info.checksum in (None, file_checksum(objects, path)):
            return
    raise CorruptError(
        f"{objects.url}: {info.name} was garbled on its way here, twice: try again",
        object=info.name,
    )


def file_checksum(objects: Objects, path: Path) -> int:
    """Return the checksum of a file's bytes that is kept with its object."""
    checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            checksum = objects.checksum(chunk, checksum)
    return checksum


def pull(objects: Objects, files: Mapping[Path, FileEntry]) -> None:
    """Fill files that ``allocate`` made with the bytes that their entries name.

    Raises:
        CorruptError: an object is gone, or its bytes are others, also when they came again.
    """
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="maas-pull") as pool:
        small = [
            pool.submit(_pull_one, objects, path, entry, _at_once)
            for path, entry in files.items()
            if entry.size_bytes <= RANGE_BYTES
        ]
        try:
            for path, entry in files.items():
                if entry.size_bytes > RANGE_BYTES:
                    _pull_one(objects, path, entry, pool.submit)
        finally:
            _all(small)


# Runs a call, now or in a thread: ``Executor.submit``.
_Run = Callable[..., Future[None]]


def _at_once(call: Callable[..., None], *arguments: object) -> Future[None]:
    done: Future[None] = Future()
    call(*arguments)
    done.set_result(None)
    return done


def _pull_one(objects: Objects, path: Path, entry: FileEntry, run: _Run) -> None:
    info = _stat(objects, entry)
    if not entry.size_bytes:
        return
    with _mapped(path, entry.size_bytes) as view:

        def read(start: int) -> None:
            with view[start : start + RANGE_BYTES] as target:
                objects.read_into(info, start, target)

        for again in (False, True):
            waiting = [run(read, start) for start in range(0, len(view), RANGE_BYTES)]
            if _is_right(objects, entry, info, view, waiting, is_last=again):
                return


def _stat(objects: Objects, entry: FileEntry) -> ObjectInfo:
    info = objects.stat(object_name(entry.sha256))
    if info is None:
        raise _lost(objects, entry)
    if info.size_bytes != entry.size_bytes:
        raise _spoilt(objects, entry)
    return info


@contextmanager
def _mapped(path: Path, size_bytes: int) -> Iterator[memoryview]:
    with open(path, "rb+") as file, mmap.mmap(file.fileno(), size_bytes) as mapped:
        view = memoryview(mapped)
        try:
            yield view
        finally:
            view.release()


def _is_right(
    objects: Objects,
    entry: FileEntry,
    info: ObjectInfo,
    view: memoryview,
    waiting: list[Future[None]],
    *,
    is_last: bool,
) -> bool:
    """Return True when all ranges arrived intact; all transfers have ended by then."""
    digest, checksum = hashlib.sha256(), 0
    try:
        for index, future in enumerate(waiting):
            future.result()
            end = (index + 1) * RANGE_BYTES
            for start in range(index * RANGE_BYTES, end, _CHUNK_BYTES):
                with view[start : min(start + _CHUNK_BYTES, end)] as chunk:
                    digest.update(chunk)
                    if info.checksum is not None:
                        checksum = objects.checksum(chunk, checksum)
    finally:
        for future in waiting:
            if not future.cancel():
                future.exception()
    arrived = info.checksum in (None, checksum)
    if digest.hexdigest() == entry.sha256:
        return True
    if not is_last:
        return False
    if not arrived:
        raise CorruptError(
            f"{objects.url}: {info.name} was garbled on its way here, twice: its checksum is "
            f"{info.checksum:08x}, that of what came {checksum:08x}; nothing was kept: try again",
            object=info.name,
        )
    raise _spoilt(objects, entry)


def _all(futures: Iterable[Future[None]]) -> None:
    """Wait for all; the first error cancels those that have not begun."""
    futures = list(futures)
    try:
        for future in futures:
            future.result()
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _lost(objects: Objects, entry: FileEntry) -> CorruptError:
    name = object_name(entry.sha256)
    return CorruptError(
        f"{objects.url}: {name}, which a published version needs, is not there: publish the same "
        "bundle again, which puts it back",
        object=name,
    )


def _spoilt(objects: Objects, entry: FileEntry) -> CorruptError:
    name = object_name(entry.sha256)
    return CorruptError(
        f"{objects.url}: the bytes of {name} are not those of its name; nothing was kept: publish "
        "the same bundle again, which replaces them",
        object=name,
    )
