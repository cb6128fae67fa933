"""A bucket on a bad day: what a user reads, and that nothing is lost."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from maas_sdk.bundle import open_bundle
from maas_sdk.errors import (
    CorruptError,
    CredentialsError,
    MaasError,
    NotFoundError,
    OverloadedError,
    TransportError,
)
from maas_sdk.store import gcs as module
from maas_sdk.store.cache import BundleCache
from maas_sdk.store.gcs import GcsObjects
from maas_sdk.store.remote import RemoteStore
from tests.kit import gcs as cloud
from tests.kit.stores import make_bundle

PART = 40_000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[cloud.Gcs]:
    with cloud.bucket(monkeypatch) as server:
        # What is tried again is given up after a second.
        monkeypatch.setattr(module, "_RETRY_S", 1.0)
        yield server


@pytest.fixture
def store(server: cloud.Gcs, tmp_path: Path) -> RemoteStore:
    return RemoteStore(GcsObjects("bucket", "p", part_bytes=PART), BundleCache(tmp_path / "cache"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "b.maas")


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (401, CredentialsError, "no Google credentials here: run gcloud auth"),
        (403, CredentialsError, "grant this account roles/storage.objectViewer on the bucket"),
        (429, OverloadedError, "over a quota"),
        (503, TransportError, "failed, also after retries"),
    ],
)
def test_an_answer_that_is_none_is_explained(
    store: RemoteStore,
    server: cloud.Gcs,
    bundle: Path,
    status: int,
    kind: type[MaasError],
    message: str,
) -> None:
    """Each status is one sentence with the bucket's URL; nothing is published by it."""
    store.publish(bundle, "digits")
    before = server.names("bucket")
    server.status = lambda method, path: status
    calls = (
        store.models,
        lambda: store.resolve("digits"),
        lambda: store.publish(bundle, "digits"),
        lambda: store.promote("digits", 1),
    )
    for call in calls:
        with pytest.raises(kind, match=message) as caught:
            call()
        assert "gs://bucket/p" in str(caught.value)
    assert server.names("bucket") == before


def test_a_bucket_that_is_not_there(server: cloud.Gcs, bundle: Path) -> None:
    """Named, with the command that makes one."""
    store = RemoteStore(GcsObjects("buckett"))
    for call in (store.models, lambda: store.resolve("m"), lambda: store.publish(bundle, "m")):
        with pytest.raises(NotFoundError, match="there is no bucket 'buckett': check the name"):
            call()


def test_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle: Path) -> None:
    """The two ways to get them, or what is wrong with the file that was named."""
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(CredentialsError, match="no Google credentials here: run gcloud auth"):
        RemoteStore(GcsObjects("bucket")).publish(bundle, "digits")


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is gone is a TransportError, soon enough."""
    monkeypatch.setattr(module, "_RETRY_S", 1.0)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    with pytest.raises(TransportError, match=r"gs://bucket: no answer"):
        RemoteStore(GcsObjects("bucket")).models()


def test_without_the_package_the_install_line_is_given() -> None:
    """In a process that has no google-cloud-storage."""
    code = (
        "import sys; sys.modules['google.cloud'] = None\n"
        "from maas_sdk.store.opening import open_store\n"
        "try: open_store('gs://bucket/x').models()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "DependencyError gs://bucket/x needs the package google-cloud-storage: "
        "pip install 'maas-sdk[gcp]'\n"
    )


def test_the_package_is_loaded_when_a_bucket_is_called() -> None:
    """To import stores, and to open one, loads nothing of it."""
    code = (
        "import sys\n"
        "from maas_sdk.store.opening import open_store\n"
        "open_store('gs://bucket/x'); open_store('store'); open_store('memory://x')\n"
        "heavy = ('google.auth', 'google.cloud.', 'requests')\n"
        "print(*[m for m in sys.modules if m.startswith(heavy)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def flip(answer: memoryview) -> bytes:
    return bytes(answer[:-1]) + bytes([answer[-1] ^ 1])


def is_media(path: str) -> bool:
    return "alt=media" in path and "objects" in path


def test_bytes_that_are_garbled_once_come_again(
    store: RemoteStore, server: cloud.Gcs, bundle: Path
) -> None:
    """A flipped bit in one answer: fetched anew, and right."""
    store.publish(bundle, "digits")
    spoilt = []

    def once(method: str, path: str, answer: memoryview) -> bytes | None:
        if is_media(path) and len(answer) > PART and not spoilt:
            spoilt.append(path)
            return flip(answer)
        return None

    server.faults = once
    open_bundle(store.resolve("digits")).check()
    assert spoilt


def test_bytes_that_stay_garbled_are_not_kept(
    store: RemoteStore, server: cloud.Gcs, bundle: Path, tmp_path: Path
) -> None:
    """The error says that it was on the way, and gives both checksums; nothing is kept."""
    store.publish(bundle, "digits")
    server.faults = lambda m, path, answer: (
        flip(answer) if is_media(path) and len(answer) > PART else None
    )
    with pytest.raises(CorruptError, match="garbled on its way here, twice: its checksum is"):
        store.resolve("digits")
    assert list((tmp_path / "cache" / "bundles").iterdir()) == []
    server.faults = lambda *_: None
    open_bundle(store.resolve("digits")).check()


def test_an_answer_that_is_cut_comes_again(
    store: RemoteStore, server: cloud.Gcs, bundle: Path
) -> None:
    """The connection closes in the middle of a range, once."""
    store.publish(bundle, "digits")
    cut = []

    def once(method: str, path: str, answer: memoryview) -> bytes | None:
        if is_media(path) and len(answer) > PART and not cut:
            cut.append(path)
            return bytes(answer[: len(answer) // 2])
        return None

    server.faults = once
    open_bundle(store.resolve("digits")).check()
    assert cut


def test_an_upload_goes_on_where_it_was_cut(
    store: RemoteStore, server: cloud.Gcs, bundle: Path
) -> None:
    """Parts that arrived are not sent again."""
    uploads = itertools.count(1)

    def refuse(method: str, path: str) -> int | None:
        is_upload = method == "POST" and "/upload/" in path
        return 403 if is_upload and next(uploads) > 8 else None

    server.status = refuse
    with pytest.raises(CredentialsError, match="not allowed"):
        store.publish(bundle, "digits")
    assert server.storage.objects["bucket"]
    assert not [name for name in server.names("bucket") if name.startswith("p/models/")]
    server.status = lambda *_: None
    server.requests.clear()
    assert store.publish(bundle, "digits") == "1"
    sent = [path for method, path in server.requests if method == "POST" and "/upload/" in path]
    # Three parts of weights, five files, a manifest and the pointer, less the eight that arrived.
    assert len(sent) == 3 + 5 + 1 + 1 - 8
    open_bundle(store.resolve("digits")).check()
    assert not [name for name in server.names("bucket") if "uploads" in name]


def test_ranges_are_fetched_side_by_side(
    server: cloud.Gcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large file comes by ranges, each pinned to the generation that was seen."""
    monkeypatch.setattr("maas_sdk.store.transfer.RANGE_BYTES", 30_000)
    store = RemoteStore(GcsObjects("bucket"), BundleCache(tmp_path / "cache"))
    store.publish(make_bundle(tmp_path / "b.maas"), "digits")
    server.requests.clear()
    open_bundle(store.resolve("digits")).check()
    ranges = [path for method, path in server.requests if is_media(path)]
    assert len(ranges) == 4 + 4 + 2  # weights of 100 kB, four programs, a manifest twice
    assert all("ifGenerationMatch=" in path for path in ranges)


def test_the_emulator_refuses_as_the_real_one(server: cloud.Gcs) -> None:
    """412 with Google's reason: what the tests of preconditions rest on."""
    import httpx

    url = f"{server.url}/upload/storage/v1/b/bucket/o?uploadType=media&name=x&ifGenerationMatch="
    headers = {"content-type": "application/octet-stream"}
    first = httpx.post(url + "0", content=b"1", headers=headers)
    assert first.status_code == 200
    again = httpx.post(url + "0", content=b"2", headers=headers)
    assert again.status_code == 412
    assert json.loads(again.content)["error"]["errors"][0]["reason"] == "conditionNotMet"
    generation = first.json()["generation"]
    assert httpx.post(url + generation, content=b"3", headers=headers).status_code == 200
