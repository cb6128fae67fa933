"""Cloud Storage in this process: the emulator, with what it lacks made as Google documents it.

    with gcs("models") as server:
        server.url                      # for STORAGE_EMULATOR_HOST

gcp-storage-emulator ignores preconditions, so that a compare-and-swap always succeeds, does not
change ``updated`` when an object's metadata are patched, and answers one request at a time. Here
``ifGenerationMatch`` and ``ifMetagenerationMatch`` answer 412, also for an upload in several
requests, which is judged when it begins and again when it ends. ``faults`` spoils answers: a test
of what a bad network does.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest
from gcp_storage_emulator import server as emulator  # type: ignore[import-untyped]  # it has no types
from gcp_storage_emulator.exceptions import NotFound  # type: ignore[import-untyped]  # it has no types
from gcp_storage_emulator.handlers import buckets  # type: ignore[import-untyped]  # it has no types
from gcp_storage_emulator.storage import Storage  # type: ignore[import-untyped]  # it has no types

__all__ = ["Gcs", "bucket", "gcs"]

logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
logging.getLogger("api").setLevel(logging.CRITICAL)

Wanted = dict[str, int]


class Unmet(Exception):
    """A precondition does not hold: 412."""


class _Storage(Storage):
    """Objects that are written, patched and deleted only as the request in hand allows."""

    def __init__(self) -> None:
        super().__init__(use_memory_fs=True)
        self.lock = threading.RLock()
        self.wanted: Wanted = {}
        self.of_upload: dict[str, Wanted] = {}

    def _write_config_to_file(self) -> None:
        """Nothing: its file would be the whole index as JSON, written at each request."""

    def check(self, bucket: str, name: str, wanted: Wanted) -> None:
        try:
            found = self.get_file_obj(bucket, name)
        except NotFound:
            found = {"generation": 0, "metageneration": 0}
        for field, value in wanted.items():
            if int(found[field]) != value:
                raise Unmet(f"{bucket}/{name}: {field} is {found[field]}, wanted {value}")

    def create_file(self, bucket: str, name: str, content: bytes, obj: Any, file_id: Any = None):
        self.check(bucket, name, self.of_upload.pop(file_id, self.wanted))
        return super().create_file(bucket, name, content, obj, file_id)

    def create_resumable_upload(self, bucket: str, name: str, obj: Any) -> Any:
        self.check(bucket, name, self.wanted)
        upload = super().create_resumable_upload(bucket, name, obj)
        self.of_upload[upload] = self.wanted
        return upload

    def delete_file(self, bucket: str, name: str) -> None:
        self.check(bucket, name, self.wanted)
        # No soft deletion: there would be a copy of everything.
        self._hard_delete_file(bucket, name)

    def get_file_obj(self, bucket: str, name: str) -> Any:
        # A copy: the emulator's handlers change what they get before they are allowed to.
        return dict(super().get_file_obj(bucket, name))

    def patch_object(self, bucket: str, name: str, obj: Any) -> None:
        self.check(bucket, name, self.wanted)
        obj["updated"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        super().patch_object(bucket, name, obj)


class Gcs:
    """The running server.

    Attributes:
        url: where it listens.
        requests: (method, path) of all that came, in order.
        faults: asked at each request with its method, path and whole answer, headers and all; what
            it returns is sent in the answer's place, None leaves it.
        status: asked with method and path; a number is answered at once, and nothing is done.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.storage = _Storage()
        for name in names:
            buckets.create_bucket(name, self.storage)
        self.requests: list[tuple[str, str]] = []
        self.faults: Callable[[str, str, memoryview], bytes | None] = lambda *_: None
        self.status: Callable[[str, str], int | None] = lambda *_: None
        self._server = _Server(("127.0.0.1", 0), partial(_Handler, self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def names(self, bucket: str) -> list[str]:
        """Objects of a bucket, sorted."""
        return sorted(self.storage.objects.get(bucket, {}))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A client that was killed is no news."""


class _Handler(emulator.RequestHandler):
    rfile: io.BufferedIOBase | io.BytesIO
    wfile: Any  # the socket's; while the emulator answers, memory

    def __init__(self, gcs: Gcs, *arguments: Any) -> None:
        self.gcs = gcs
        super().__init__(gcs.storage, *arguments)

    def _go(self, method: str) -> None:
        request = emulator.Request(self, method)
        self.gcs.requests.append((method, self.path))
        if (status := self.gcs.status(method, self.path)) is not None:
            self._refuse(status, "as the test wants it", "test")
            return
        wanted = {
            field: int(values[0])
            for field, query in (
                ("generation", "ifGenerationMatch"),
                ("metageneration", "ifMetagenerationMatch"),
            )
            if (values := request.query.get(query))
        }
        # Bodies are read and sent outside of the lock: a slow client holds up no other.
        # Terraform sends them in chunks, without saying how long they are.
        body = emulator._read_raw_data(self) or b""
        del self.headers["Transfer-Encoding"], self.headers["Content-Length"]
        self.headers["Content-Length"] = str(len(body))
        self.rfile, out, self.wfile = io.BytesIO(body), self.wfile, io.BytesIO()
        with self.storage.lock:
            self.storage.wanted = wanted if method != emulator.GET else {}
            try:
                # The emulator has one generation, and does not look which one a reader asks for.
                read = re.search(r"/b/([^/]+)/o/([^/?]+)", self.path)
                if method == emulator.GET and wanted and read:
                    self.storage.check(read[1], unquote(read[2]), wanted)
                emulator.Router(self).handle(method)
            except Unmet as error:
                self._refuse(412, str(error), "conditionNotMet")
            finally:
                self.storage.wanted = {}
        answer, self.wfile = self.wfile.getbuffer(), out
        spoilt = self.gcs.faults(method, self.path, answer)
        with contextlib.suppress(ConnectionError):
            out.write(answer if spoilt is None else spoilt)

    def do_GET(self) -> None:
        self._go(emulator.GET)

    def do_POST(self) -> None:
        self._go(emulator.POST)

    def do_PUT(self) -> None:
        self._go(emulator.PUT)

    def do_PATCH(self) -> None:
        self._go(emulator.PATCH)

    def do_DELETE(self) -> None:
        self._go(emulator.DELETE)

    def _refuse(self, status: int, message: str, reason: str) -> None:
        error = {"code": status, "message": message}
        body = json.dumps({"error": {**error, "errors": [{"reason": reason, **error}]}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def gcs(*names: str) -> Iterator[Gcs]:
    """A server with these buckets."""
    server = Gcs(names)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def bucket(patch: pytest.MonkeyPatch) -> Iterator[Gcs]:
    """A server with the bucket ``bucket``, which Google's client takes for Cloud Storage."""
    with gcs("bucket") as server:
        patch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server
