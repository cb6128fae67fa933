"""The function opens its model from a bucket: MAAS_BUNDLE names it, and nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from maas_sdk.deploy.package import main_source
from maas_sdk.deploy.process import FunctionProcess
from maas_sdk.store.opening import open_store
from tests.kit import gcs as cloud

STORE = "gs://bucket/models"


@pytest.fixture
def server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bundle: Path
) -> Iterator[cloud.Gcs]:
    with cloud.bucket(monkeypatch) as server:
        monkeypatch.setenv("MAAS_BUNDLE_CACHE", str(tmp_path / "cache"))
        open_store(STORE).publish(tiny_bundle, "tiny", label="stable")
        yield server


def function(folder: Path, bundle: str, **environment: str) -> FunctionProcess:
    folder.mkdir()
    (folder / "main.py").write_text(main_source())
    return FunctionProcess(folder, environment={"MAAS_BUNDLE": bundle, **environment})


def predict(process: FunctionProcess) -> httpx.Response:
    url = f"{process.url}/v1/models/tiny:predict"
    return httpx.post(url, json={"instances": [[0.0, 1, 0, 0]]}, timeout=60)


def test_a_function_serves_from_a_bucket(server: cloud.Gcs, tmp_path: Path) -> None:
    """Two workers, forked from one master: the bundle is fetched once, after the fork."""
    with function(tmp_path / "f", f"{STORE}/tiny@stable", WORKERS="2") as process:
        process.first_answer("/v1/models/tiny")
        for _ in range(4):
            assert predict(process).json() == {"predictions": [[3.0, 4.0, 5.0]]}
    fetched = [path for _, path in server.requests if "alt=media" in path and "objects" in path]
    # The manifest alone comes twice: to know the files, then as one of them.
    assert sorted(map(fetched.count, set(fetched)))[-2:] == [1, 2]


def test_the_next_start_has_what_a_label_was_moved_to(
    server: cloud.Gcs, tmp_path: Path, tiny_bundle: Path
) -> None:
    """Promoted between two starts; the second reads the pointer and the cache."""
    store = open_store(STORE)
    store.publish(tiny_bundle, "tiny")
    with function(tmp_path / "f1", f"{STORE}/tiny@1") as process:
        process.first_answer("/v1/models/tiny")
        assert predict(process).status_code == 200
    server.requests.clear()
    store.promote("tiny", 2)
    with function(tmp_path / "f2", f"{STORE}/tiny@stable") as process:
        process.first_answer("/v1/models/tiny")
        assert predict(process).status_code == 200
        status = httpx.get(f"{process.url}/v1/models/tiny").json()
        # By the label that chose it, and by no other.
        paths = [f"{process.url}/v1/models/tiny/labels/{label}" for label in ("stable", "canary")]
        assert [httpx.get(path).status_code for path in paths] == [200, 404]
    assert status["model_version_status"][0]["version"] == "2"
    media = [path for _, path in server.requests if "alt=media" in path]
    assert all("models%2Ftiny.json" in path for path in media)


def test_a_model_that_is_not_there_is_told_to_callers(server: cloud.Gcs, tmp_path: Path) -> None:
    """A fault of this side, with the sentence that says what is missing."""
    with function(tmp_path / "f", f"{STORE}/tiny@canary") as process:
        process.first_answer("/")
        answer = predict(process)
    assert answer.status_code == 500
    assert "no label 'canary' at gs://bucket/models/tiny" in json.dumps(answer.json())
