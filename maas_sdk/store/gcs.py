"""Objects in a bucket of Google Cloud Storage; the only file that imports google-cloud-storage.

Why this library and not gcsfs, measured with versions 3.17 and 2026.10 on two cores, bytecode
compiled, the emulator in another process, medians of five fresh processes:

    ==========================================  ====================  =======
                                                google-cloud-storage  gcsfs
    ==========================================  ====================  =======
    import                                      0.58 s                1.10 s
    process start to first small object         0.56 s                1.14 s
    64 MiB by ranges of 8 MiB, side by side     0.24 s                0.20 s
    the same, streamed in pieces of 8 KiB       0.45 s
    ==========================================  ====================  =======

(gcsfs with its look-up of the bucket's kind turned off, without which the first call to the
emulator takes half a minute.) A cold start pays the first two rows at each start, so ranges are
fetched in one piece each. The import is inside functions: a process that opens no bucket does
without it.

The rules: a range is pinned to a generation, so a file is never made of two objects. A file of
several parts is uploaded part by part, side by side, then composed; a part that is there already is
not sent again, which is how an upload goes on after a kill. A stored object has the CRC32C of
the bytes read here, or it is deleted again.
"""

from __future__ import annotations

import base64
import io
import mmap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from maas_sdk.errors import NotFoundError, TransportError
from maas_sdk.store.gcs_errors import translated
from maas_sdk.store.objects import ObjectInfo, sent_otherwise

__all__ = ["PART_BYTES", "GcsObjects"]

PART_BYTES: Final = 32 * 2**20
# https://cloud.google.com/storage/docs/composite-objects: sources of one request.
_MAX_PARTS: Final = 32
# Connections of one client; urllib3 keeps ten.
_THREADS: Final = 8
# How long a call is tried again, with growing pauses.
_RETRY_S: Final = 60.0


class GcsObjects:
    """``Objects`` below a prefix of a bucket. Connects on the first call.

    Attributes:
        url: ``gs://bucket/prefix``.
    """

    def __init__(self, bucket: str, prefix: str = "", *, part_bytes: int = PART_BYTES) -> None:
        """Set bucket and prefix.

        Args:
            bucket: its name.
            prefix: of all names, without a slash at its ends.
            part_bytes: a larger file is uploaded in parts of this size, or larger ones.
        """
        self.url = f"gs://{bucket}" + (f"/{prefix}" if prefix else "")
        self._name = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._part_bytes = part_bytes
        self._lock = threading.Lock()
        # A part that is sent is in memory, whole: so many at once, of however many files.
        self._sending = threading.BoundedSemaphore(_THREADS)
        self._made: Any = None
        self._seen = False

    def checksum(self, data: bytes | memoryview, value: int = 0) -> int:
        """Return the CRC32C."""
        with self._translated():
            import google_crc32c

            # It takes nothing but bytes.
            crc: int = google_crc32c.extend(value, bytes(data))
            return crc

    def stat(self, name: str) -> ObjectInfo | None:
        """Return the object's present state."""
        with self._translated():
            blob = self._bucket().get_blob(self._prefix + name, retry=self._retry())
            if blob is None:
                self._check_bucket()
                return None
            return self._info(blob)

    def find(self, prefix: str) -> list[ObjectInfo]:
        """Return all objects whose names start with ``prefix``, by name."""
        with self._translated():
            found = self._bucket().list_blobs(prefix=self._prefix + prefix, retry=self._retry())
            return sorted(self._info(blob) for blob in found)

    def read(self, name: str) -> tuple[bytes, ObjectInfo] | None:
        """Read state, then the bytes of that generation; start again if it has changed."""
        while True:
            info = self.stat(name)
            if info is None:
                return None
            sink = io.BytesIO()
            if self._download(info, sink, None, None):
                return sink.getvalue(), info

    def read_into(self, info: ObjectInfo, start: int, target: memoryview) -> None:
        """Read a range of one generation straight into the buffer."""
        for _ in range(3):
            sink = _Sink(target)
            if not self._download(info, sink, start, start + len(target) - 1):
                raise NotFoundError(f"{self.url}: object {info.name} is gone", object=info.name)
            if sink.filled == len(target):
                return
        raise TransportError(
            f"{self.url}: {info.name}: expected {len(target)} bytes from {start}, got "
            f"{sink.filled}, three times; try again"
        )

    def write(self, name: str, data: bytes, *, generation: int) -> ObjectInfo | None:
        """Write a small object where ``generation`` is the present one."""
        with self._translated():
            return self._send(self._blob(name), io.BytesIO(data), len(data), generation)

    def upload(
        self, name: str, path: Path, *, checksum: int, generation: int = 0
    ) -> ObjectInfo | None:
        """Upload a file of one part in one request, a larger one by parts composed later."""
        size = path.stat().st_size
        with self._translated():
            if size <= self._part_bytes:
                with open(path, "rb") as file:
                    info = self._send(self._blob(name), file, size, generation)
            else:
                info = self._compose(name, path, size, generation)
        if info is not None and info.checksum != checksum:
            self.delete(info)
            raise sent_otherwise(self.url, name, path)
        return info

    def refresh(self, info: ObjectInfo) -> ObjectInfo | None:
        """Change the object's metadata, which sets its time and keeps its bytes."""
        with self._translated():
            from google.api_core.exceptions import NotFound, PreconditionFailed

            blob = self._blob(info.name)
            blob.metadata = {"maas-used": str(info.revision)}
            try:
                blob.patch(
                    if_generation_match=info.generation,
                    if_metageneration_match=info.revision,
                    retry=self._retry(),
                )
            except (NotFound, PreconditionFailed):
                return None
            return self._info(blob)

    def delete(self, info: ObjectInfo) -> bool:
        """Delete an object that is in the state of ``info``."""
        with self._translated():
            from google.api_core.exceptions import NotFound, PreconditionFailed

            try:
                self._blob(info.name).delete(
                    if_generation_match=info.generation,
                    if_metageneration_match=info.revision,
                    retry=self._retry(),
                )
            except (NotFound, PreconditionFailed):
                return False
            return True

    def _compose(self, name: str, path: Path, size: int, generation: int) -> ObjectInfo | None:
        """Upload the missing parts, named by their content, then compose them into one object."""
        step = max(self._part_bytes, -(-size // _MAX_PARTS))
        folder = f"uploads/{name.rpartition('/')[2]}-{step}/"
        there = {info.name: info for info in self.find(folder)}
        with open(path, "rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as view:

            def part(start: int) -> ObjectInfo | None:
                with self._sending:
                    return self._part(f"{folder}{start:020d}", view[start : start + step], there)

            with ThreadPoolExecutor(_THREADS, thread_name_prefix="maas-upload") as pool:
                parts = list(pool.map(part, range(0, size, step)))
        from google.api_core.exceptions import NotFound, PreconditionFailed

        sent = [info for info in parts if info]
        if len(sent) < len(parts):
            return None  # as below, while we were sending
        blob = self._blob(name)
        try:
            blob.compose(
                [self._blob(info.name) for info in sent],
                if_generation_match=generation,
                if_source_generation_match=[info.generation for info in sent],
                retry=self._retry(),
            )
        except (NotFound, PreconditionFailed):
            # Somebody else has sent the same file, and composed it before us.
            blob = None
        for info in sent:
            self.delete(info)
        if blob is None:
            return None
        blob.reload(retry=self._retry())
        return self._info(blob)

    def _part(self, name: str, data: bytes, there: dict[str, ObjectInfo]) -> ObjectInfo | None:
        """Return a part as an object: the existing one if its content matches, or uploaded."""
        found = there.get(name)
        # Refreshed, or a collector may take it before it is composed.
        if found and found.checksum == self.checksum(data) and (young := self.refresh(found)):
            return young
        generation = found.generation if found else 0
        return self._send(self._blob(name), io.BytesIO(data), len(data), generation) or self.stat(
            name
        )

    def _send(self, blob: Any, file: Any, size: int, generation: int) -> ObjectInfo | None:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        try:
            blob.upload_from_file(
                file,
                size=size,
                content_type="application/octet-stream",
                if_generation_match=generation,
                checksum="crc32c",
                retry=self._retry(),
            )
        except PreconditionFailed:
            return None
        except NotFound:
            self._check_bucket()
            raise
        return self._info(blob)

    def _download(self, info: ObjectInfo, sink: Any, start: int | None, stop: int | None) -> bool:
        """Download a range up to ``stop``, its last byte; False if the generation has changed."""
        with self._translated():
            from google.api_core.exceptions import NotFound, PreconditionFailed

            try:
                self._blob(info.name).download_to_file(
                    sink,
                    start=start,
                    end=stop,
                    raw_download=True,
                    single_shot_download=True,
                    checksum=None,
                    if_generation_match=info.generation,
                    retry=self._retry(),
                )
            except (NotFound, PreconditionFailed):
                return False
            return True

    def _blob(self, name: str) -> Any:
        return self._bucket().blob(self._prefix + name)

    def _bucket(self) -> Any:
        with self._lock:
            if self._made is None:
                from google.cloud import storage

                # No project: a bucket has a name of its own in the whole world. Without
                # credentials the emulator that STORAGE_EMULATOR_HOST names is called.
                self._made = storage.Client(project=None).bucket(self._name)
            return self._made

    def _retry(self) -> Any:
        from google.cloud.storage.retry import DEFAULT_RETRY

        return DEFAULT_RETRY.with_timeout(_RETRY_S)

    def _check_bucket(self) -> None:
        """Check once that the bucket exists, since a missing object may mean a missing bucket."""
        if not self._seen:
            list(self._bucket().list_blobs(max_results=1, retry=self._retry()))
            self._seen = True

    def _info(self, blob: Any) -> ObjectInfo:
        return ObjectInfo(
            name=blob.name.removeprefix(self._prefix),
            size_bytes=int(blob.size),
            generation=int(blob.generation),
            revision=int(blob.metageneration),
            changed_s=blob.updated.timestamp(),
            checksum=int.from_bytes(base64.b64decode(blob.crc32c), "big"),
        )

    def _translated(self) -> AbstractContextManager[None]:
        return translated(self.url, self._name)


class _Sink:
    """Target of a download: a buffer, filled from its start."""

    def __init__(self, target: memoryview) -> None:
        self._target = target
        self.filled = 0

    def write(self, data: bytes) -> int:
        stop = self.filled + len(data)
        if stop <= len(self._target):
            self._target[self.filled : stop] = data
        self.filled = stop
        return len(data)
