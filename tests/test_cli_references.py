"""Every command that reads a bundle reads it from a store as well, and says what is wrong there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from typer.testing import CliRunner

from maas_sdk.bundle import open_bundle, write_weights
from maas_sdk.bundle.manifest import MANIFEST, WEIGHTS
from maas_sdk.cli.app import app
from maas_sdk.store import gcs
from maas_sdk.store.opening import open_store
from maas_sdk.store.remote import RemoteStore
from maas_sdk.store.resolve import find_bundle
from tests.kit import gcs as cloud

ROWS = np.random.default_rng(0).random((3, 4), np.float32)
STORES = {
    "bucket": "gs://bucket/models",
    "folder": "file://{tmp}/versions",
    "path": "{tmp}/versions",
    "memory": "memory://{tmp}/models",
}
# What each command that takes a bundle needs beside it.
COMMANDS: dict[str, tuple[str, ...]] = {
    "inspect": (),
    "verify": (),
    "predict": ("{tmp}/rows.npy",),
    "evaluate": ("{tmp}/rows.npz", "--calls", "2"),
    "batch": ("{tmp}/rows.npy", "--out", "{tmp}/out"),
    "package": ("{tmp}/out",),
    "deploy": ("--project", "my-project", "--dry-run"),
    "bench cold": ("--runs", "1"),
    "serve": ("--port", "0"),
    "seal": ("--out", "{tmp}/out", "--sign", "env:SIGNING_KEY"),
    "reweight": ("{tmp}/new.safetensors", "--out", "{tmp}/out"),
    "push": ("memory://{tmp}/other",),
    "quantize": ("--out", "{tmp}/out"),
}


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[cloud.Gcs]:
    """A bucket that is empty, a cache of one's own, and the files that commands ask for."""
    monkeypatch.setenv("MAAS_BUNDLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SIGNING_KEY", f"ed25519-private:{'A' * 43}=")
    np.save(tmp_path / "rows.npy", ROWS)
    np.savez(tmp_path / "rows.npz", x=ROWS, labels=np.array([2, 2, 0]))
    write_weights(tmp_path / "new.safetensors", {"w": np.ones((4, 3), np.float32)})
    with cloud.bucket(monkeypatch) as server:
        yield server


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path, tiny_bundle: Path) -> str:
    """Its URL or path; model ``tiny`` in it has versions 1, which is stable, and 2."""
    return filled(request.param, tmp_path, tiny_bundle)


def filled(kind: str, folder: Path, bundle: Path) -> str:
    url = STORES[kind].format(tmp=folder)
    opened = open_store(url)
    assert [opened.publish(bundle, "tiny") for _ in range(2)] == ["1", "2"]
    opened.promote("tiny", 1)
    return url


def run(command: str, place: str, folder: Path, *more: str, code: int = 0) -> Any:
    """The JSON document of a command on a bundle, with what it needs beside it."""
    words = [word.format(tmp=folder) for word in COMMANDS[command]]
    result = CliRunner().invoke(app, [*command.split(), place, *words, *more, "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def arguments(group: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The bundle that a command takes, by the command's full name."""
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from arguments(command, f"{name}{word} ")
            continue
        for parameter in command.params:
            if (
                parameter.name in ("bundle", "source", "model")
                and "bundle" in parameter.help.lower()
            ):
                yield f"{name}{word}", parameter


def test_the_table_has_every_command_that_takes_a_bundle() -> None:
    """A new one has to be tried here; and its help says that a store will do."""
    taking = dict(arguments(typer.main.get_command(app)))
    assert set(taking) == set(COMMANDS)
    for name, parameter in taking.items():
        assert "store" in parameter.help, f"{name}: {parameter.help}"


def test_a_model_in_a_store_is_shown_checked_and_asked(
    store: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    """As the folder that was published; what a label or nothing stands for is said."""
    shown = run("inspect", f"{store}/tiny@stable", tmp_path)
    here = run("inspect", str(tiny_bundle), tmp_path)
    assert (shown.pop("version"), here.pop("version")) == ("1", None)
    assert shown == here
    assert run("inspect", f"{store}/tiny@2", tmp_path)["version"] == "2"
    words = CliRunner().invoke(app, ["inspect", f"{store}/tiny@stable"]).stdout
    assert "version 1 in its store" in words
    assert "in its store" not in CliRunner().invoke(app, ["inspect", str(tiny_bundle)]).stdout
    assert run("verify", f"{store}/tiny@1", tmp_path)["programs"] == list(
        shown["manifest"]["programs"]
    )
    found = run("predict", f"{store}/tiny@stable", tmp_path)
    assert found == run("predict", str(tiny_bundle), tmp_path)


@pytest.mark.parametrize("kind", ["bucket", "folder", "memory"])
def test_without_a_version_it_is_the_latest(kind: str, tmp_path: Path, tiny_bundle: Path) -> None:
    """By a URL."""
    store = filled(kind, tmp_path, tiny_bundle)
    assert run("inspect", f"{store}/tiny", tmp_path)["version"] == "2"


def test_a_model_in_a_store_is_judged(store: str, tiny_bundle: Path, tmp_path: Path) -> None:
    """Beside a folder, under the name that was typed."""
    place = f"{store}/tiny@stable"
    found = run("evaluate", str(tiny_bundle), tmp_path, "--against", place)["evaluations"]
    assert found[0]["quality"] == found[1]["quality"]
    assert place.endswith(found[1]["name"])
    assert "tiny@stable" in found[1]["name"]


def test_batch_answers_of_one_version_are_not_mixed_with_anothers(
    store: str, changed_bundle: Any, tmp_path: Path
) -> None:
    """The label moves between two runs: the second does not go on behind the first."""
    place = f"{store}/tiny@stable"
    assert run("batch", place, tmp_path)["answered"] == 3
    open_store(store).promote("tiny", 2)  # the same bundle once more: the same answers
    assert run("batch", place, tmp_path, "--resume")["answered"] == 3
    other = changed_bundle(lambda manifest: manifest.setdefault("metadata", {}).update(new="yes"))
    open_store(store).publish(other, "tiny", label="stable")
    refused = run("batch", place, tmp_path, "--resume", code=1)
    assert refused["code"] == "config_invalid"
    assert "bundle.manifest_sha256" in refused["error"]


def test_a_model_in_a_store_is_made_into_something_else(
    store: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    """A function, a signed copy, a version of another store: each with the very files."""
    manifest = (tiny_bundle / MANIFEST).read_bytes()
    run("package", f"{store}/tiny@1", tmp_path, "--overwrite")
    assert (tmp_path / "out" / "model.maas" / MANIFEST).read_bytes() == manifest
    run("seal", f"{store}/tiny@1", tmp_path, "--overwrite")
    assert open_bundle(tmp_path / "out").signature is not None
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (tiny_bundle / WEIGHTS).read_bytes()
    other = f"memory://{tmp_path}/other"
    assert run("push", f"{store}/tiny@stable", tmp_path)["version"] == "1"
    copied = find_bundle(other)
    open_bundle(copied).check()
    assert (copied / MANIFEST).read_bytes() == manifest


def test_a_new_version_is_never_made_in_the_cache(
    store: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    """A folder of versions gets its next one; of a bucket's the folder to write is asked for."""
    weights = str(tmp_path / "new.safetensors")
    words = ["reweight", f"{store}/tiny@1", weights, "--json"]
    done = json.loads(CliRunner().invoke(app, words).stdout)
    if store.startswith(("gs://", "memory://")):
        assert "name it with --out, then maas push" in done["error"]
        assert len(list((tmp_path / "cache" / "bundles").iterdir())) == 1
    else:
        assert done["path"] == str(tmp_path / "versions" / "tiny" / "3")
    run("reweight", f"{store}/tiny@1", tmp_path)
    open_bundle(tmp_path / "out").check()
    assert (tmp_path / "out" / WEIGHTS).read_bytes() != (tiny_bundle / WEIGHTS).read_bytes()


@pytest.mark.slow
def test_a_cold_start_of_a_model_in_a_bucket(tmp_path: Path, tiny_bundle: Path) -> None:
    """Packaged, started, and its answer checked, as one of a folder."""
    store = filled("bucket", tmp_path, tiny_bundle)
    assert run("bench cold", f"{store}/tiny@stable", tmp_path)["ratio"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_store_does_not_have_is_named(
    command: str, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown model, version or label, and no such store: exit code 1, nothing written."""
    monkeypatch.chdir(tmp_path)
    bucket = filled("bucket", tmp_path, tiny_bundle)
    folder = filled("path", tmp_path, tiny_bundle)
    for place, message in (
        (f"{bucket}/tinny@1", "no model 'tinny' in gs://bucket/models; it has tiny"),
        (f"{bucket}/tiny@7", "no version 7 of model 'tiny' in gs://bucket/models; it has 1, 2"),
        (f"{bucket}/tiny@canary", f"no label 'canary' at {bucket}/tiny"),
        ("gs://nowhere/models/tiny", "there is no bucket 'nowhere': check the name"),
        (f"{folder}/tiny@7", "no version 7 of model 'tiny'"),
        (f"file://{folder}/tiny@canary", "no label 'canary'"),
        ("s3://bucket/models/tiny", "no store for s3://"),
    ):
        found = run(command, place, tmp_path, code=1)
        assert message in found["error"]
        assert found["code"] in ("not_found", "config_invalid")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "deployments").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["bucket", "memory"])
def test_a_bundle_that_was_altered_in_its_store_is_refused(
    kind: str, command: str, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bit of the weights: it does not reach the cache, and nothing is made of it."""
    monkeypatch.chdir(tmp_path)
    store = filled(kind, tmp_path, tiny_bundle)
    opened = open_store(store)
    assert isinstance(opened, RemoteStore)
    name = open_bundle(tiny_bundle).manifest.files[WEIGHTS].sha256
    [weights] = [info for info in opened.objects.find("objects/") if info.name.endswith(name)]
    data = bytearray((tiny_bundle / WEIGHTS).read_bytes())
    data[-1] ^= 1
    assert opened.objects.write(weights.name, bytes(data), generation=weights.generation)
    found = run(command, f"{store}/tiny@stable", tmp_path, code=1)
    assert found["code"] == "bundle_corrupt"
    assert "are not those of its name; nothing was kept" in found["error"]
    assert list((tmp_path / "cache" / "bundles").iterdir()) == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["verify", "predict", "evaluate", "batch", "package", "push"])
def test_a_bundle_that_was_altered_in_a_folder_of_versions_is_refused(
    command: str, tmp_path: Path, tiny_bundle: Path
) -> None:
    """It is opened where it lies, and its hashes are checked there."""
    store = filled("path", tmp_path, tiny_bundle)
    weights = tmp_path / "versions" / "tiny" / "1" / WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(data)
    found = run(command, f"{store}/tiny@stable", tmp_path, code=1)
    assert found["code"] == "bundle_corrupt"
    assert WEIGHTS in found["error"]


@pytest.mark.parametrize("command", ["inspect", "predict"])
def test_a_store_that_is_not_reached(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody answers: which store, and that it may be tried again."""
    monkeypatch.setattr(gcs, "_RETRY_S", 1.0)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    found = run(command, "gs://bucket/models/tiny@1", tmp_path, code=1)
    assert found["error"].startswith("gs://bucket/models: no answer")
    assert found["code"] == "no_answer"


def test_without_the_package_for_buckets_the_install_line_is_given() -> None:
    """A command on a bucket, in a process that has no google-cloud-storage."""
    code = (
        "import sys; sys.modules['google.cloud'] = None\n"
        "from maas_sdk.cli.app import app\n"
        "app(['inspect', 'gs://bucket/models/tiny@1', '--json'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'maas-sdk[gcp]'" in json.loads(done.stdout)["error"]
