"""The commands on a small bundle: in this process where that is enough, else as real ones."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from maas_sdk.cli.serving.predict import split_url
from tests.kit.command_line import document, maas
from tests.kit.damage import flip

MAAS = [sys.executable, "-c", "from maas_sdk.cli import main; main()"]
MODEL = """
import numpy as np

weights = {"w": np.arange(6, dtype=np.float32).reshape(3, 2)}
example = np.ones((2, 3), np.float32)


def apply(weights, inputs):
    return {"y": inputs @ weights["w"]}
"""
ROWS = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 1]], np.float32)
ANSWERS = ROWS @ np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs compiled here are not kept in the user's folder."""
    monkeypatch.setenv("MAAS_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by ``maas export``, as a user would."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "small_model.py").write_text(MODEL)
    source = folder / "small_model.py"
    result = maas(
        *("export", f"{source}:apply", "--weights", f"{source}:weights"),
        *("--example", f"{source}:example", "--out", folder / "small.maas"),
        *("--name", "small", "--buckets", "1,2", "--json"),
    )
    assert result.exit_code == 0, result.output
    made = document(result)
    assert made["name"] == "small"
    assert made["programs"] == ["predict"]
    return Path(made["path"])


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, ROWS)
    return path


@pytest.fixture(scope="module")
def endpoint(bundle: Path) -> Iterator[str]:
    """``maas serve`` in a process of its own, on a free port."""
    with subprocess.Popen(
        [*MAAS, "serve", str(bundle), "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            found = json.loads(process.stdout.readline())
            assert found["model"] == "small"
            yield found["url"]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def test_inspect_shows_a_tree_and_the_tier(bundle: Path) -> None:
    """Name, signature, batches and which tier opens here, for people."""
    result = maas("inspect", bundle)
    assert result.exit_code == 0, result.output
    for words in ("small", "input: float32[B, 3]", "y: float32[B, 2]", "1, 2", "executable"):
        assert words in result.output


def test_inspect_for_machines_is_the_manifest_and_the_tier(bundle: Path) -> None:
    """The same as JSON."""
    found = document(maas("inspect", bundle, "--json"))
    assert found["manifest"]["name"] == "small"
    assert found["here"]["tier"] == "executable"
    assert found["here"]["reason"]


@pytest.mark.parametrize("tier", [None, "executable", "program"])
def test_verify_runs_the_golden_inputs(bundle: Path, tier: str | None) -> None:
    """In the usual tier and in each that is asked for."""
    result = maas("verify", bundle, *(["--tier", tier] if tier else []), "--json")
    assert result.exit_code == 0, result.output
    assert document(result)["tier"] == (tier or "executable")


def test_verify_finds_a_flipped_bit(bundle: Path, tmp_path: Path) -> None:
    """Exit code 1, one red sentence that names the file, the same as JSON, no traceback."""
    import shutil

    copy = shutil.copytree(bundle, tmp_path / "copy.maas")
    flip(copy / "weights.safetensors", -1)
    result = maas("verify", copy)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "weights.safetensors" in result.stderr
    assert "Traceback" not in result.output
    found = document(maas("verify", copy, "--json"), code=1)
    assert found["code"] == "bundle_corrupt"
    assert "weights.safetensors" in found["error"]


def test_verify_refuses_an_unknown_tier(bundle: Path) -> None:
    """With the tiers there are."""
    result = maas("verify", bundle, "--tier", "fast")
    assert result.exit_code == 1
    assert "expected executable or program, got 'fast'" in result.stderr


@pytest.mark.parametrize("command", ["inspect", "verify", "serve"])
def test_a_missing_bundle_is_named(command: str, tmp_path: Path) -> None:
    """The path is in the message."""
    result = maas(command, tmp_path / "none.maas")
    assert result.exit_code == 1
    assert "none.maas" in result.stderr.replace("\n", "")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    """The error itself comes through."""
    result = maas("inspect", tmp_path / "none.maas", "--debug")
    assert result.exit_code == 1
    assert type(result.exception).__name__ == "NotFoundError"


def test_predict_answers_a_file_from_a_bundle(bundle: Path, rows: Path, tmp_path: Path) -> None:
    """As a table, as JSON and as an npz, the same numbers."""
    shown = maas("predict", bundle, rows)
    assert shown.exit_code == 0, shown.output
    assert "6, 9" in shown.stdout
    found = document(maas("predict", bundle, rows, "--json"))
    assert found["outputs"]["y"] == {"dtype": "float32", "shape": [3, 2], "data": ANSWERS.tolist()}
    written = maas("predict", bundle, rows, "--out", tmp_path / "y.npz")
    assert written.exit_code == 0, written.output
    with np.load(tmp_path / "y.npz") as answers:
        np.testing.assert_array_equal(answers["y"], ANSWERS, strict=True)


def test_predict_names_an_unknown_program(bundle: Path, rows: Path) -> None:
    """With the programs there are."""
    result = maas("predict", bundle, rows, "--program", "embed")
    assert result.exit_code == 1
    assert "no program 'embed'; the model has predict" in result.stderr.replace("\n", " ")


def test_predict_answers_a_file_from_an_endpoint(endpoint: str, rows: Path) -> None:
    """By a full URL, or by address and --model."""
    full = document(maas("predict", f"{endpoint}/v1/models/small:predict", rows, "--json"))
    assert full["outputs"]["y"]["data"] == ANSWERS.tolist()
    named = document(maas("predict", endpoint, rows, "--model", "small", "--json"))
    assert named == full


def test_load_is_measured_from_outside(endpoint: str) -> None:
    """All calls answered, figures in order."""
    result = maas(
        *("bench", "load", f"{endpoint}/v1/models/small"),
        *("--calls", 40, "--clients", 2, "--rows", 3, "--json"),
    )
    assert result.exit_code == 0, result.output
    found = document(result)
    assert found["answered"] == 40
    assert found["errors"] == {}
    assert 0 < found["p50_s"] <= found["p90_s"] <= found["p99_s"] <= found["max_s"]
    assert found["rows_per_s"] == pytest.approx(120 / found["duration_s"])


def test_load_without_a_model_says_how_to_name_it(endpoint: str) -> None:
    """Two ways."""
    result = maas("bench", "load", endpoint)
    assert result.exit_code == 1
    assert "--model" in result.stderr


def test_a_port_in_use_is_told_before_anything_is_loaded(bundle: Path) -> None:
    """Which port, why, and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = maas("serve", bundle, "--port", port)
    assert result.exit_code == 1
    words = " ".join(result.stderr.split())
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in words
    assert "--port 0" in words


def test_package_makes_a_folder_and_a_zip(bundle: Path, tmp_path: Path) -> None:
    """Both hold main.py and the bundle; the zip is the same bytes every time."""
    folder = document(maas("package", bundle, tmp_path / "function", "--json"))
    assert (tmp_path / "function" / "main.py").is_file()
    assert folder["files"] > 20
    for name in ("one.zip", "two.zip"):
        assert maas("package", bundle, tmp_path / name).exit_code == 0
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert {"main.py", "requirements.txt", "model.maas/manifest.json"} <= set(
            archive.namelist()
        )
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    again = maas("package", bundle, tmp_path / "one.zip")
    assert again.exit_code == 1
    assert "exists already" in again.stderr
    assert maas("package", bundle, tmp_path / "one.zip", "--overwrite").exit_code == 0


def test_cold_starts_are_measured(bundle: Path) -> None:
    """A real function process and an empty one; the stages of the runtime are told apart."""
    result = maas("bench", "cold", bundle, "--runs", 1, "--json")
    assert result.exit_code == 0, result.output
    found = document(result)
    assert found["tier"] == "executable"
    names = [stage["name"] for stage in found["function"]]
    assert names[:2] == ["interpreter", "imports"]
    assert {"bundle opened", "weights", "executable"} <= set(names)
    assert names[-1] == "first answer"
    assert found["ratio"] > 0


@pytest.mark.parametrize(
    ("url", "split"),
    [
        ("http://h:1", ("http://h:1", None)),
        ("http://h/v1/models/a", ("http://h", "a")),
        ("https://h/x/v1/models/a%20b/versions/2:predict", ("https://h/x", "a b")),
        ("http://h/v1/models/a:predict", ("http://h", "a")),
    ],
)
def test_an_endpoints_url_may_name_the_model(url: str, split: tuple[str, str | None]) -> None:
    """An address alone, or any path of a model."""
    assert split_url(url) == split
