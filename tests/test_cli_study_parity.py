"""``maas parity`` as it is typed: exit codes, JSON, the page, and models of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_iris
from typer.testing import CliRunner, Result

from maas_sdk.cli.app import app

SCRIPT = """
import numpy as np
from flax import nnx
from maas_sdk.training.data import Examples

def make_model():
    return nnx.Linear(4, 3, rngs=nnx.Rngs(0))

def rows():
    random = np.random.default_rng(0)
    return Examples(inputs=random.random((32, 4), np.float32), labels=np.arange(32) % 3)

three = 3
"""


def maas(*words: str) -> Result:
    return CliRunner().invoke(app, ["parity", *words])


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's file of its own name, beside an .npz with all of iris."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"model_{abs(hash(tmp_path))}.py"
    file.write_text(SCRIPT)
    inputs, labels = load_iris(return_X_y=True)
    np.savez(tmp_path / "iris.npz", inputs=inputs.astype(np.float32), labels=labels)
    return file


@pytest.mark.slow
def test_the_example_needs_no_file(tmp_path: Path) -> None:
    """One step on the digits: a table, a page, exit code 0."""
    page = tmp_path / "parity.html"
    said = maas("--example", "digits", "--steps", "1", "--out", str(page))
    assert said.exit_code == 0, said.output
    assert said.stdout.splitlines()[0].startswith("policy  final loss")
    assert "within" in said.stdout
    assert "bf16 beside f32" in page.read_text()


def test_a_model_of_ones_own(script: Path) -> None:
    """A function that makes a model, a file of rows; --json is the whole result."""
    words = (f"{script.name}:make_model", "--data", "iris.npz", "--policy", "bf16")
    said = maas(*words, "--policy", "int8", "--epochs", "1", "--batch-size", "24", "--json")
    assert said.exit_code == 0, said.output
    document = json.loads(said.stdout)
    assert document["passed"] is True
    assert [verdict["candidate"] for verdict in document["verdicts"]] == ["bf16", "int8"]
    assert [len(curve["losses"]) for curve in document["curves"]] == [6, 6, 6]


def test_beyond_the_bar_is_exit_code_1(script: Path) -> None:
    """The table and the page are there all the same."""
    words = (f"{script.name}:make_model", "--data", f"{script.name}:rows", "--batch-size", "8")
    said = maas(*words, "--epochs", "1", "--bar", "1e-9", "--out", "parity.html")
    assert said.exit_code == 1, said.output
    assert said.stdout.rstrip().endswith("beyond")
    assert "✕ 1 of 1 beyond the bar" in Path("parity.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected a model and its rows"),
        (("MODEL:make_model",), "expected a model and its rows"),
        (("MODEL:make_model", "--example", "digits"), "brings a model and rows of its own"),
        (("--example", "digit"), "unknown example 'digit'; there is digits"),
        (("MODEL:make_mode", "--data", "iris.npz"), "no 'make_mode' in"),
        (("MODEL:three", "--data", "iris.npz"), "expected a flax.nnx module, got int"),
        (("MODEL:make_model", "--data", "none.npz"), "no such file"),
        (("MODEL:make_model", "--data", "iris.npz", "--policy", "int3"), "unknown dtype"),
        (("--example", "digits", "--optimizer", "adamm"), "known are sgd"),
        (("--example", "digits", "--out", "page.txt"), "expected a path that ends in .html"),
    ],
)
def test_what_is_wrong_is_said(script: Path, words: tuple[str, ...], message: str) -> None:
    """Every mistake is one sentence and exit code 1, before anything is trained."""
    said = maas(*(word.replace("MODEL", script.name) for word in words), "--json")
    assert said.exit_code == 1, said.output
    assert message in json.loads(said.stdout)["error"]
