"""Batch predictions killed at random moments, taken up until they are done.

The processes are real, and so are their files; rows without an answer are among them.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet  # type: ignore[import-untyped]  # it has no types
import pytest

ROWS = 100_000
BAD = set(range(17, ROWS, 1001))
CODE = """
import sys
from maas_sdk.batch import BatchConfig, predict_files

bundle, file, out = sys.argv[1:]
options = BatchConfig(format="parquet", part_rows=500, key="id", finite=True)
print("begun", flush=True)
predict_files(bundle, file, out, options, mode="resume")
print("done", flush=True)
"""


def write_input(path: Path) -> np.ndarray:
    x = np.random.default_rng(0).random((ROWS, 4), np.float32)
    with_nan = x.copy()
    with_nan[sorted(BAD), 1] = np.nan
    if path.suffix == ".npz":
        np.savez(path, x=with_nan, id=np.arange(ROWS) * 2)
    else:
        with path.open("w") as file:
            for number, row in enumerate(with_nan.tolist()):
                file.write(json.dumps({"id": number * 2, "x": row}) + "\n")
    return x


def survive(bundle: Path, folder: Path, name: str, *, kills: int, seed: int) -> None:
    """Kill a run so often, at moments of ``seed``; in the end every row is there exactly once."""
    x = write_input(folder / name)
    out = folder / "out"
    command = [sys.executable, "-c", CODE, str(bundle), str(folder / name), str(out)]
    moments = random.Random(seed)
    counts = []
    killed = 0
    while True:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            if killed < kills:
                # A few new parts and a moment more; some are killed before their first part.
                wanted = (counts[-1] if counts else 0) + moments.randint(0, 4)
                while len(list(out.glob("part-*"))) < wanted:
                    time.sleep(0.001)
                time.sleep(moments.uniform(0.0, 0.03))
                process.kill()
                done = process.stdout.read()
                assert done == "", "it was done before it was killed: more rows are needed"
                killed += 1
                counts.append(len(list(out.glob("part-*"))))
                continue
            assert process.stdout.readline() == "done\n"
        break
    assert counts == sorted(counts), "a finished part was lost"
    assert counts[-1] > 0
    print(f"{name}: parts after each kill {counts}")
    tables = [pyarrow.parquet.read_table(path) for path in sorted(out.glob("part-*"))]
    keys = [int(key) for table in tables for key in table["id"].to_pylist()]
    assert keys == [2 * row for row in range(ROWS) if row not in BAD]
    answers = np.array([row for table in tables for row in table["y"].to_pylist()], np.float32)
    weights = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_allclose(answers, (x @ weights)[np.array(keys) // 2], rtol=1e-5)
    texts = [path.read_text("utf-8") for path in sorted(out.glob("bad-*"))]
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    assert [line["row"] for line in lines] == sorted(BAD)
    assert not list(out.glob(".*"))


@pytest.mark.slow
def test_three_kills_leave_every_row_once(tiny_bundle: Path, tmp_path: Path) -> None:
    """Out of an .npz, whose rows can be skipped."""
    survive(tiny_bundle, tmp_path, "rows.npz", kills=3, seed=0)


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["rows.npz", "rows.jsonl"])
def test_twenty_kills_leave_every_row_once(tiny_bundle: Path, name: str, tmp_path: Path) -> None:
    """The same with twenty kills, and out of JSON lines, which are read again from the start."""
    survive(tiny_bundle, tmp_path, name, kills=20, seed=1)
