"""``maas evaluate``, run on a real bundle and over a real socket."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from maas_sdk.cli.app import app

# Rows whose largest output, under arange(12) as [4, 3], is the last of three.
ROWS = np.random.default_rng(0).random((20, 4), np.float32)
LABELS = np.where(np.arange(20) < 15, 2, 0)


def maas(*words: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", *words])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", x=ROWS.astype(np.float64), labels=LABELS)
    return tmp_path / "data.npz"


def test_a_bundle_is_judged(tiny_bundle: Path, data: Path, tmp_path: Path) -> None:
    """Figures on the screen, the whole document as JSON, a page on demand."""
    page = tmp_path / "report.html"
    said = maas(str(tiny_bundle), str(data), "--calls", "3", "--out", str(page))
    assert said.exit_code == 0, said.output
    assert "75.00 %" in said.stdout
    assert "tiny.maas" in page.read_text()
    said = maas(str(tiny_bundle), str(data), "--calls", "3", "--json")
    document = json.loads(said.stdout)
    assert document["quality"]["accuracy"] == 0.75
    assert document["where"] == "in this process, tier executable"


def test_two_side_by_side(tiny_bundle: Path, data: Path) -> None:
    """--against judges both and says what changed."""
    said = maas(str(tiny_bundle), str(data), "--calls", "2", "--against", str(tiny_bundle))
    assert said.exit_code == 0, said.output
    accuracy = next(line for line in said.stdout.splitlines() if line.startswith("accuracy"))
    assert accuracy.split() == ["accuracy", "75.00", "%", "75.00", "%", "same"]
    both = ("--against", str(tiny_bundle), "--json", "--calls", "2")
    said = maas(str(tiny_bundle), str(data), *both)
    assert len(json.loads(said.stdout)["evaluations"]) == 2


@pytest.fixture
def address(tiny_bundle: Path) -> Iterator[str]:
    """``maas serve`` in a process of its own, on a free port."""
    code = "from maas_sdk.cli import main; main()"
    words = ["serve", str(tiny_bundle), "--port", "0", "--json"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()


def test_an_endpoint_is_judged(address: str, data: Path) -> None:
    """The same figures as of the bundle, over a real socket."""
    said = maas(address, str(data), "--model", "tiny", "--calls", "2", "--json")
    assert said.exit_code == 0, said.output
    document = json.loads(said.stdout)
    assert document["quality"]["accuracy"] == 0.75
    assert document["where"] == "over HTTP"
    assert document["cost"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.npz"], "no such file"),
        (["{data}", "--labels", "y"], "no array 'y'; it has x, labels"),
        (["{data}", "--program", "none"], "no program 'none'; the model has"),
        (["{data}", "--program", "both"], "besides 'labels' it has x; the program takes n, x"),
        (["{data}", "--task", "other"], "expected one of classification"),
        (["{data}", "--out", "report.pdf"], "ends in .html"),
        (["{labels}"], "only the labels"),
        (["{cut}"], "cannot be read as an .npz"),
    ],
)
def test_a_mistake_is_one_sentence(
    tiny_bundle: Path, data: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    """Exit code 1 and what to do, never a traceback."""
    np.savez(tmp_path / "labels.npz", labels=LABELS)
    (tmp_path / "cut.npz").write_bytes(data.read_bytes()[:200])
    files = {name: str(tmp_path / f"{name}.npz") for name in ("data", "labels", "cut")}
    said = maas(str(tiny_bundle), *(word.format(**files) for word in words))
    assert said.exit_code == 1, said.output
    assert message in said.stderr.replace("\n", " ")
    assert "Traceback" not in said.output
