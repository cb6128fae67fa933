"""``maas batch`` as a person runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet  # type: ignore[import-untyped]  # it has no types
import pytest
from typer.testing import CliRunner

from maas_sdk.cli.app import app
from maas_sdk.cli.serving.batch import _time

X = np.arange(40, dtype=np.float32).reshape(10, 4)


def maas(*words: object) -> Any:
    return CliRunner().invoke(app, ["batch", *map(str, words)], env={"COLUMNS": "200"})


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Ten rows with an id and a note; one has a word where a number belongs."""
    lines = ["id,note,a,b,c,d"]
    lines += [f"k{number},hm,{','.join(map(str, row))}" for number, row in enumerate(X)]
    lines[4] = lines[4].replace("12.0", "twelve")
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    return tmp_path / "rows.csv"


def test_a_table_is_answered(tiny_bundle: Path, table: Path, tmp_path: Path) -> None:
    """Answers beside the keys, the bad row with its reason, and both counts said."""
    out = tmp_path / "out"
    done = maas(tiny_bundle, table, "--out", out, "--key", "id", "--ignore", "note")
    assert done.exit_code == 0, done.output
    assert "9 rows answered, 1 not (bad-….jsonl says why), 1 file in" in done.stdout
    [part] = out.glob("part-*.parquet")
    found = pyarrow.parquet.read_table(part).to_pydict()
    rows = [row for row in range(10) if row != 3]
    assert found["id"] == [f"k{row}" for row in rows]
    np.testing.assert_allclose(
        found["y"], X[rows] @ np.arange(12, dtype=np.float32).reshape(4, 3), rtol=1e-6
    )
    [bad] = out.glob("bad-*")
    assert json.loads(bad.read_text("utf-8")) == {
        "row": 3,
        "id": "k3",
        "reason": "column 'a': expected a number, found 'twelve'",
    }


def test_answers_that_are_there(tiny_bundle: Path, table: Path, tmp_path: Path) -> None:
    """Refused, resumed or replaced, as asked; with --json as one document."""
    words = (tiny_bundle, table, "--out", tmp_path / "out", "--columns", "x=a,b,c,d")
    assert maas(*words).exit_code == 0
    refused = maas(*words)
    assert refused.exit_code == 1
    assert "is not empty: choose another folder, or go on" in refused.stderr
    resumed = maas(*words, "--resume")
    assert "all was done before" in resumed.stdout
    replaced = maas(*words, "--overwrite", "--format", "jsonl", "--json")
    document = json.loads(replaced.stdout)
    assert (document["rows"], document["answered"], document["bad"]) == (10, 9, 1)
    assert [path.suffix for path in (tmp_path / "out").glob("part-*")] == [".jsonl"]
    both = maas(*words, "--resume", "--overwrite", "--json")
    assert json.loads(both.stdout)["code"] == "config_invalid"


@pytest.mark.parametrize("text", ["x", "x=", "=a"])
def test_columns_that_are_none(tiny_bundle: Path, table: Path, tmp_path: Path, text: str) -> None:
    """The form that is expected is said."""
    done = maas(tiny_bundle, table, "--out", tmp_path / "out", "--columns", text)
    assert done.exit_code == 1
    assert f"--columns '{text}': expected INPUT=COLUMN,… such as x=age,height" in done.stderr


def test_ctrl_c_leaves_what_is_finished(tiny_bundle: Path, tmp_path: Path) -> None:
    """Exit code 130, a word on how to go on, and --resume does."""
    np.save(tmp_path / "rows.npy", np.tile(X, (6_000, 1)))
    out = tmp_path / "out"
    words = ["batch", tiny_bundle, tmp_path / "rows.npy", "--out", out, "--part-rows", "500"]
    # Whoever runs tests in the background has Ctrl-C ignored, which children inherit.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from maas_sdk.cli import main; main()"
    )
    command = [sys.executable, "-c", code, *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while not list(out.glob("part-*")):
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        said = " ".join(process.stderr.read().split())
    assert process.returncode == 130, said
    assert "--resume goes on" in said
    assert not list(out.glob(".*"))
    assert 0 < len(list(out.glob("part-*"))) < 120
    done = maas(*words[1:], "--resume", "--json")
    assert json.loads(done.stdout)["answered"] == 60_000


def test_time_left_in_words() -> None:
    """Minutes and seconds, hours where there are some."""
    assert [_time(s) for s in (0.4, 61, 3600 + 62)] == ["0:00", "1:01", "1:01:02"]
