"""Files through a real bundle: every row once, resumed, refused, told of."""

from __future__ import annotations

import json
import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas_sdk.batch import BatchConfig, BatchJob, BatchReport, Progress, predict_files
from maas_sdk.batch.compute import assemble
from maas_sdk.batch.destination import Folder
from maas_sdk.batch.progress import Meter
from maas_sdk.batch.row_counts import Sizes, best_bucket
from maas_sdk.bundle.folder import open_bundle
from maas_sdk.bundle.program import Verification
from maas_sdk.errors import (
    ConfigError,
    InputError,
    ModelError,
    NotFoundError,
    StorageError,
)

ROWS = 1000
X = np.random.default_rng(0).random((ROWS, 4), np.float32)
Y = X @ np.arange(12, dtype=np.float32).reshape(4, 3)
NPZ = BatchConfig(format="npz", part_rows=150)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """1000 rows, of which every hundredth has a NaN."""
    x = X.copy()
    x[50::100, 2] = np.nan
    np.save(tmp_path / "rows.npy", x)
    return tmp_path / "rows.npy"


def answers(out: Path) -> tuple[list[int], np.ndarray, list[int]]:
    """Keys and answers in the order of the parts; numbers of the rows that have none."""
    keys: list[int] = []
    values = []
    for path in sorted(out.glob("part-*.npz")):
        with np.load(path) as found:
            keys += found["row"].tolist()
            values.append(found["y"])
    texts = [path.read_text("utf-8") for path in sorted(out.glob("bad-*"))]
    lines = [line for text in texts for line in text.splitlines()]
    return keys, np.concatenate(values), [json.loads(line)["row"] for line in lines]


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "done.json"}


def test_every_row_is_answered_once_or_set_aside(tiny_bundle, rows, tmp_path):
    """Keys are the rows' numbers, in order; the report counts both kinds."""
    out = tmp_path / "out"
    report = predict_files(tiny_bundle, rows, out, replace(NPZ, finite=True))
    assert report == BatchReport(
        rows=ROWS, answered=990, bad=10, parts=7, run_rows=ROWS, run_s=report.run_s
    )
    keys, values, bad = answers(out)
    assert bad == list(range(50, ROWS, 100))
    assert keys == [row for row in range(ROWS) if row not in bad]
    np.testing.assert_allclose(values, Y[keys], rtol=1e-6)
    assert json.loads((out / "done.json").read_text())["answered"] == 990


def test_the_program_is_run_in_full_batches(tiny_bundle, rows, tmp_path):
    """Of the best size, but for one at the end of a part."""

    ran: list[int] = []

    def run(inputs: Any) -> Any:
        ran.append(len(inputs["x"]))
        return {"y": inputs["x"] @ np.arange(12, dtype=np.float32).reshape(4, 3)}

    job = BatchJob.of(tiny_bundle, rows, replace(NPZ, finite=True))
    sizes = replace(job.sizes, bucket=4, part_rows=152)
    signature = job.manifest.programs["predict"].signature
    meter = Meter(None, total=ROWS)
    parts = list(assemble(job.source.read(0), run, signature, sizes, finished={2}, meter=meter))
    assert [part.index for part in parts] == [0, 1, 3, 4, 5, 6]
    assert sum(len(part.keys) for part in parts) == sum(ran)
    assert sum(size != 4 for size in ran) <= len(parts)
    assert meter.rows == ROWS - 152


def test_a_run_is_taken_up_where_it_was_left(tiny_bundle, rows, tmp_path):
    """Parts that are there stay; the others are those of an undisturbed run, bit for bit."""
    config = replace(NPZ, finite=True)
    whole, out = tmp_path / "whole", tmp_path / "out"
    predict_files(tiny_bundle, rows, whole, config)
    predict_files(tiny_bundle, rows, out, config)
    (out / "done.json").unlink()
    for number in (1, 4, 6):
        [part] = out.glob(f"part-{number:06}-*")
        part.unlink()
    (out / ".writing-part-000001").write_text("half")
    kept = {path: path.stat().st_ino for path in out.glob("part-*")}
    report = predict_files(tiny_bundle, rows, out, config, mode="resume")
    assert (report.rows, report.answered, report.parts) == (ROWS, 990, 7)
    assert report.run_rows == 152 + 152 + 88
    assert contents(out) == contents(whole)
    assert all(path.stat().st_ino == inode for path, inode in kept.items())
    again = predict_files(tiny_bundle, rows, out, config, mode="resume")
    assert (again.rows, again.run_rows) == (ROWS, 0)


def test_a_run_whose_last_word_is_missing(tiny_bundle, rows, tmp_path):
    """All parts there, and no done.json: nothing is computed again, and the count is right."""
    out = tmp_path / "out"
    for name in ("rows.npy", "rows.jsonl"):
        path = tmp_path / name
        if path.suffix == ".jsonl":
            path.write_text("\n".join(map(json.dumps, X.tolist())))
        first = predict_files(tiny_bundle, path, out / name, NPZ)
        (out / name / "done.json").unlink()
        second = predict_files(tiny_bundle, path, out / name, NPZ, mode="resume")
        assert second == replace(first, run_rows=0, run_s=second.run_s)


def test_answers_that_are_there_are_not_touched(tiny_bundle, rows, tmp_path):
    """Refused, unless they are of the same job, or are to be replaced; other files never go."""
    out = tmp_path / "out"
    predict_files(tiny_bundle, rows, out, NPZ)
    before = contents(out)
    with pytest.raises(
        ConfigError, match=r"is not empty: .* --resume, or replace them with --over"
    ):
        predict_files(tiny_bundle, rows, out, NPZ)
    with pytest.raises(
        ConfigError, match=r"of another job; options\.format: npz there, jsonl here"
    ):
        predict_files(tiny_bundle, rows, out, replace(NPZ, format="jsonl"), mode="resume")
    os.utime(rows, ns=(1, 1))
    with pytest.raises(ConfigError, match=r"input\.changed_unix_ns: \d+ there, 1 here"):
        predict_files(tiny_bundle, rows, out, NPZ, mode="resume")
    (out / "mine.txt").write_text("")
    with pytest.raises(ConfigError, match=r"other files too \(mine\.txt\), so nothing is removed"):
        predict_files(tiny_bundle, rows, out, NPZ, mode="overwrite")
    (out / "mine.txt").unlink()
    assert contents(out) == before
    predict_files(tiny_bundle, rows, out, replace(NPZ, format="jsonl"), mode="overwrite")
    assert not list(out.glob("*.npz"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("")
    with pytest.raises(ConfigError, match="no batch prediction that could be resumed"):
        predict_files(tiny_bundle, rows, tmp_path / "other", NPZ, mode="resume")


def test_a_resumed_run_needs_the_same_bundle(tiny_bundle, changed_bundle, rows, tmp_path):
    """Another manifest is another bundle: its answers are not mixed with the old ones."""
    predict_files(tiny_bundle, rows, tmp_path / "out", NPZ)
    other = changed_bundle(lambda manifest: manifest["metadata"].update(note="another"))
    with pytest.raises(ConfigError, match=r"another job; bundle\.manifest_sha256"):
        predict_files(other, rows, tmp_path / "out", NPZ, mode="resume")


def test_an_input_that_breaks_off_loses_nothing(tiny_bundle, tmp_path):
    """Finished parts stay, and the message says so and where the file breaks."""
    path = tmp_path / "rows.jsonl"
    line = json.dumps([1, 2, 3, 4]) + "\n"
    path.write_text(line * 20_000 + "x" * 65 * 2**20)
    with pytest.raises(InputError, match=r"no end of line .*\(\d+ finished parts stay in .*out\)"):
        predict_files(tiny_bundle, path, tmp_path / "out", replace(NPZ, part_rows=1000))
    keys, values, _ = answers(tmp_path / "out")
    assert keys == list(range(len(keys)))
    assert len(keys) >= 1000
    assert (values == values[0]).all()


@pytest.mark.parametrize("kind", ["npz", "parquet", "jsonl"])
def test_a_full_disk_loses_nothing(kind, tiny_bundle, rows, tmp_path):
    """It is said as such, no half file is left, and the run goes on when there is room."""
    config = replace(NPZ, format=kind)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        with pytest.raises(StorageError, match="no room to write it"):
            predict_files(tiny_bundle, rows, tmp_path / "out", config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path / "out") == ["job.json"]
    report = predict_files(tiny_bundle, rows, tmp_path / "out", config, mode="resume")
    assert report.answered == ROWS


def test_nothing_is_left_of_a_job_that_cannot_begin(tiny_bundle, tmp_path):
    """A header without rows: the folder is empty, so the next try is not refused."""
    (tmp_path / "rows.csv").write_text("a,b,c,d\n")
    for _ in range(2):
        with pytest.raises(InputError, match="has no rows"):
            predict_files(tiny_bundle, tmp_path / "rows.csv", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


def test_programs_that_do_not_take_rows_one_by_one(tiny_bundle, rows, tmp_path):
    """Rows that influence one another, and a program that is not there."""
    with pytest.raises(ConfigError, match="influence one another"):
        BatchJob.of(tiny_bundle, rows, BatchConfig(program="center"))
    with pytest.raises(NotFoundError, match="no program 'x'; the model has both, center, predict"):
        BatchJob.of(tiny_bundle, rows, BatchConfig(program="x"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "xml"}, "format: expected one of jsonl, npz, parquet, got 'xml'"),
        ({"part_rows": 0}, "part_rows: expected 1 or more, got 0"),
        ({"columns": {"x": ()}}, "input 'x': expected one column or more"),
        ({"columns": {"x": ("a", "a")}}, "each once"),
    ],
)
def test_options_that_make_no_sense(options, words):
    """They are refused where they are said."""
    with pytest.raises(ConfigError, match=words):
        BatchConfig(**options)


def test_a_failing_model_is_told_with_what_stays(tiny_bundle, rows, tmp_path):
    """The model's own error comes through the threads as it is."""
    job = BatchJob.of(tiny_bundle, rows, NPZ)
    calls = []

    def run(inputs: Any) -> Any:
        calls.append(len(inputs["x"]))
        if sum(calls) > 500:
            raise ModelError("the program failed while it ran")
        return {"y": np.zeros((len(inputs["x"]), 3), np.float32)}

    with Folder(tmp_path / "out") as place, pytest.raises(ModelError, match="while it ran"):
        job._run(place, run, None)
    assert len(list((tmp_path / "out").glob("part-*"))) == 3


def test_sizes_follow_from_the_bundle(tiny_bundle):
    """The batch with most rows per second where it was measured; all else in multiples of it."""
    program = open_bundle(tiny_bundle).manifest.programs["predict"]

    def measured(**run_s: float) -> Any:
        found = {name.strip("b"): value for name, value in run_s.items()}
        return program._replace(
            verification=Verification(
                rows=1, atol=0, rtol=0, max_abs_error={}, targets_run=(), run_s=found
            )
        )

    assert best_bucket(measured(b1=1.0, b2=1.0, b4=4.0)) == 2
    assert best_bucket(measured()) == best_bucket(program._replace(verification=None)) == 4
    slow = Sizes.of(measured(b1=10.0, b2=10.0, b4=10.0))
    assert (slow.bucket, slow.part_rows) == (4, 12)
    fast = Sizes.of(measured(b1=1e-4, b2=1e-4, b4=1e-4))
    # A quarter of a second of computing, then 4 MiB of 16 bytes each.
    assert fast.chunk_rows == 10_000
    assert Sizes.of(measured()).chunk_rows == 2**18
    assert fast.part_rows == pytest.approx(32 * 2**20 / 76, abs=4)
    assert Sizes.of(measured(), part_rows=1) == Sizes(bucket=4, chunk_rows=2**18, part_rows=4)
    assert Sizes.of(measured(b1=1.0, b2=1.0, b4=1.0), bucket=1).bucket == 1
    with pytest.raises(ConfigError, match="compiled for batches of 1, 2, 4 rows, not 3"):
        Sizes.of(program, bucket=3)


def test_progress_is_of_this_run():
    """The rate counts this run's rows; time left follows from the share of the input."""
    told: list[Progress] = []
    now = iter([0.0, 0.1, 1.0, 1.1, 2.0])
    meter = Meter(told.append, total=1000, clock=lambda: next(now))
    meter.add(10, 0, stop=410, share=0.41, share_before=0.4)
    meter.add(90, 2, stop=500, share=0.5, share_before=0.41)
    meter.add(1, 0, stop=501, share=0.501, share_before=0.5)
    meter.add(99, 0, stop=600, share=0.6, share_before=0.501)
    assert told == [
        Progress(rows=500, total=1000, bad=2, share=0.5, rows_per_s=100, left_s=pytest.approx(5)),
        Progress(rows=600, total=1000, bad=2, share=0.6, rows_per_s=100, left_s=pytest.approx(4)),
    ]
