"""A cloud in small: what Terraform applies becomes buckets of an emulator and running functions.

Hooks for the stand-in. A function is started as the cloud would: its source is fetched from the
bucket that the plan names, and functions-framework runs it with the planned settings. A source that
does not start fails the apply, and leaves the version before it answering.
"""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx

from maas_sdk.deploy.process import framework_command
from tests.terraform.standin import Hook

__all__ = ["LocalCloud", "local_cloud"]

State = dict[str, Any] | None

_START_S: Final = 60.0
# All that a function of the cloud has of this process's environment.
_INHERITED: Final = ("HOME", "LANG", "PATH", "TMPDIR")


class LocalCloud:
    """Buckets at an emulator, functions as processes.

    Attributes:
        running: name of a function → its process.
    """

    def __init__(self, storage_url: str, scratch: Path) -> None:
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._url = storage_url
        self._scratch = scratch

    @property
    def hooks(self) -> Mapping[str, Hook]:
        """For ``providers``."""
        return {
            "google_storage_bucket": self._bucket,
            "google_storage_bucket_object": self._object,
            "google_cloudfunctions2_function": self._function,
        }

    def stop(self) -> None:
        """End all functions."""
        for name in list(self.running):
            self._end(name)

    # -- storage

    def _request(self, method: str, path: str, **arguments: Any) -> bytes:
        answer = httpx.request(method, self._url + path, timeout=30, **arguments)
        answer.raise_for_status()
        return answer.content

    def _bucket(self, prior: State, new: State) -> None:
        if prior is None and new is not None:
            body = {"name": new["name"], "location": new["location"]}
            self._request("POST", "/storage/v1/b", params={"project": new["project"]}, json=body)
        elif prior is not None and new is None:
            self._request("DELETE", f"/storage/v1/b/{prior['name']}")

    def _object(self, prior: State, new: State) -> None:
        if new is not None:
            self._request(
                "POST",
                f"/upload/storage/v1/b/{new['bucket']}/o",
                params={"uploadType": "media", "name": new["name"]},
                content=Path(new["source"]).read_bytes(),
                headers={"Content-Type": new["content_type"]},
            )
        elif prior is not None:
            self._request("DELETE", _object_path(prior["bucket"], prior["name"]))

    # -- functions

    def _function(self, prior: State, new: State) -> None:
        if new is None:
            assert prior is not None
            self._end(prior["name"])
            return
        folder = self._fetched(new)
        if prior is None:
            port = _free_port()
            self.running[new["name"]] = self._started(folder, new, port)
        else:
            # Another revision at the same address: it has to start before it gets that.
            _end(self._started(folder, new, _free_port()))
            self._end(new["name"])
            port = int(prior["url"].rpartition(":")[2])
            self.running[new["name"]] = self._started(folder, new, port)
        new["url"] = new["service_config"][0]["uri"] = f"http://127.0.0.1:{port}"

    def _fetched(self, function: Mapping[str, Any]) -> Path:
        source = function["build_config"][0]["source"][0]["storage_source"][0]
        path = _object_path(source["bucket"], source["object"])
        archive = self._request("GET", f"/download{path}", params={"alt": "media"})
        folder = Path(tempfile.mkdtemp(dir=self._scratch))
        with zipfile.ZipFile(io.BytesIO(archive)) as file:
            file.extractall(folder)
        return folder

    def _started(
        self, folder: Path, function: Mapping[str, Any], port: int
    ) -> subprocess.Popen[bytes]:
        (build,), (service,) = function["build_config"], function["service_config"]
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        environment |= {
            **service["environment_variables"],
            "CLOUD_RUN_TIMEOUT_SECONDS": str(service["timeout_seconds"]),
            "FUNCTION_SIGNATURE_TYPE": "cloudevent" if function["event_trigger"] else "http",
            "FUNCTION_TARGET": build["entry_point"],
            "HOST": "127.0.0.1",
            "K_SERVICE": function["name"],
            "PORT": str(port),
            "STORAGE_EMULATOR_HOST": self._url,
        }
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                framework_command(), cwd=folder, env=environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _START_S
        while True:
            with socket.socket() as knock:
                if not knock.connect_ex(("127.0.0.1", port)):
                    return process
            if process.poll() is not None or time.monotonic() > deadline:
                _end(process)
                said = (folder / "log").read_text(errors="replace").strip().splitlines()[-1:]
                raise RuntimeError(
                    f"{function['name']}: the container failed to start and listen on the port "
                    f"defined by PORT={port}: {' '.join(said)}"
                )
            time.sleep(0.01)

    def _end(self, name: str) -> None:
        _end(self.running.pop(name))


def _object_path(bucket: str, name: str) -> str:
    return f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def local_cloud(storage_url: str, scratch: Path) -> Iterator[LocalCloud]:
    """A cloud whose functions are ended with the block."""
    cloud = LocalCloud(storage_url, scratch)
    try:
        yield cloud
    finally:
        cloud.stop()
