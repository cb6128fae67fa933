"""The commands on stores, against a bucket, and the service that opens a model from one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from maas_sdk.bundle import open_bundle
from maas_sdk.cli.app import app
from tests.kit import gcs as cloud
from tests.kit.stores import make_bundle

MAAS = [sys.executable, "-c", "from maas_sdk.cli import main; main()"]
STORE = "gs://bucket/models"
MODEL = f"{STORE}/digits"


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[cloud.Gcs]:
    with cloud.bucket(monkeypatch) as server:
        monkeypatch.setenv("MAAS_BUNDLE_CACHE", str(tmp_path / "cache"))
        yield server


def maas(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output if code else result.stdout


def told(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_a_model_goes_there_and_back(tmp_path: Path) -> None:
    """Pushed twice, listed, promoted, rolled back, pulled; words for people, JSON for machines."""
    first, second = (make_bundle(tmp_path / f"{n}.maas", n) for n in (1, 2))
    assert maas("push", first, MODEL) == f"{MODEL}@1\n"
    assert maas("push", second, f"{MODEL}@5", "--label", "stable") == (
        f"{MODEL}@5 (label stable → 5)\n"
    )
    assert maas("promote", f"{MODEL}@1") == f"{MODEL}: stable is 1 (was 5)\n"
    assert maas("rollback", MODEL) == f"{MODEL}: stable is 5 again\n"
    lines = maas("list", STORE).splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["digits", "5", "stable"],
        ["digits", "1", lines[2].split()[2]],
    ]
    found = told("list", STORE, "--model", "digits")["models"]["digits"]
    assert [(v["version"], v["labels"]) for v in found] == [("1", []), ("5", ["stable"])]
    out = tmp_path / "out.maas"
    assert "6 files" in maas("pull", f"{MODEL}@stable", out)
    assert open_bundle(out).manifest == open_bundle(second).manifest
    assert told("pull", f"{MODEL}@1", out, "--overwrite")["path"] == str(out)
    assert open_bundle(out).manifest == open_bundle(first).manifest
    assert told("push", first, MODEL)["version"] == "6"


def test_a_folder_of_versions_takes_the_same_commands(tmp_path: Path) -> None:
    """Only garbage it has none."""
    store = tmp_path / "store"
    bundle = make_bundle(tmp_path / "b.maas")
    assert "no model in" in maas("list", store).replace("\n", " ")
    for number in "12":
        assert told("push", bundle, store / "digits")["version"] == number
    maas("promote", f"{store}/digits@1")
    maas("promote", f"{store}/digits@2")
    assert told("rollback", store / "digits")["version"] == "1"
    assert told("list", store)["models"]["digits"][0]["labels"] == ["stable"]
    open_bundle(told("pull", f"{store}/digits@stable", tmp_path / "out")["path"]).check()
    assert "leaves no garbage" in told("gc", store, code=1)["error"]


def test_garbage_is_counted(tmp_path: Path, server: cloud.Gcs) -> None:
    """What --keep retires is told, with and without doing it."""
    for seed in range(3):
        maas("push", make_bundle(tmp_path / f"{seed}.maas", seed), MODEL)
    trial = told("gc", STORE, "--keep", "1", "--dry-run")
    assert trial == {"retired": {"digits": ["1", "2"]}, "objects": 0, "nbytes": 0, "dry_run": True}
    assert [v["version"] for v in told("list", STORE)["models"]["digits"]] == ["1", "2", "3"]
    assert "digits: retired 1, 2" in maas("gc", STORE, "--keep", 1)
    assert [v["version"] for v in told("list", STORE)["models"]["digits"]] == ["3"]


def test_what_is_wrong_is_one_sentence(tmp_path: Path) -> None:
    """Exit code 1, and nothing published."""
    bundle = make_bundle(tmp_path / "b.maas")
    maas("push", bundle, f"{MODEL}@1")
    for arguments, message in (
        (("push", bundle, f"{MODEL}@1"), "version 1 exists already"),
        (("push", bundle, f"{MODEL}@stable"), "a label is no version: give it with --label"),
        (("push", bundle, "gs://nowhere/digits"), "there is no bucket 'nowhere'"),
        (("push", bundle, "digits"), "expected a store and a model in it"),
        (("push", tmp_path / "none", MODEL), "nothing is there"),
        (("pull", f"{MODEL}@2", tmp_path / "o"), "no version 2 of model 'digits'"),
        (("pull", MODEL, bundle), "exists already: choose another path"),
        (("promote", MODEL), "say which version, such as"),
        (("rollback", MODEL), "no label 'stable'"),
        (("list", "ftp://x"), "no store for ftp://"),
        (("serve", f"{MODEL}@9"), "no version 9 of model 'digits'"),
    ):
        assert message in told(*arguments, code=1)["error"]
    assert [v["version"] for v in told("list", STORE)["models"]["digits"]] == ["1"]


def test_a_model_is_served_from_a_bucket(tiny_bundle: Path) -> None:
    """`maas serve` with a label: fetched into the cache, and answering."""
    maas("push", tiny_bundle, f"{STORE}/tiny", "--label", "stable")
    with subprocess.Popen(
        [*MAAS, "serve", f"{STORE}/tiny@stable", "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            url = json.loads(process.stdout.readline())["url"]
            answer = httpx.post(
                f"{url}/v1/models/tiny:predict", json={"instances": [[1.0, 0, 0, 0]]}, timeout=60
            )
            assert answer.json() == {"predictions": [[0.0, 1.0, 2.0]]}
        finally:
            process.terminate()
