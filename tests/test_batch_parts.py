"""Files of answers: formats, names as a ledger, and a folder in which files are whole."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pyarrow.parquet  # type: ignore[import-untyped]  # it has no types
import pytest

from maas_sdk.batch.destination import Folder
from maas_sdk.batch.parts import (
    OutputPart,
    bad_name,
    check_outputs,
    finished,
    is_ours,
    part_name,
)
from maas_sdk.errors import ConfigError, StorageError
from maas_sdk.tables.chunk import BadRow
from maas_sdk.tensors import Signature, TensorSpec

PRINT = "0123456789abcdef" * 4
OUTPUTS = {
    "logits": np.arange(6, dtype=np.float32).reshape(3, 2),
    "half": np.array([0.5, 1.5, 2.5], ml_dtypes.bfloat16),
    "small": np.array([1, -2, 3], ml_dtypes.int4),
    "deep": np.arange(12, dtype=np.int64).reshape(3, 2, 2),
    "yes": np.array([True, False, True]),
}


def part(keys: np.ndarray, **more: np.ndarray) -> OutputPart:
    return OutputPart(index=0, rows=4, keys=keys, outputs={**OUTPUTS, **more}, bad=())


def read(path: Path) -> dict[str, list]:
    """A file's columns as Python values."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name].tolist() for name in found.files}
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pydict()
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.parametrize("kind", ["npz", "parquet", "jsonl"])
@pytest.mark.parametrize(
    "keys", [np.array([5, 6, 8]), np.array(["a", "ü", "\n"], object), np.array(["x", "yy", "z"])]
)
def test_answers_come_back_beside_their_keys(kind: str, keys: np.ndarray, tmp_path: Path) -> None:
    """Every dtype as something that other programs know, in the order of the keys."""
    part(keys).write(path := tmp_path / f"a.{kind}", kind, "id")
    assert read(path) == {
        "id": keys.tolist(),
        **{name: array.astype(np.float32).tolist() for name, array in OUTPUTS.items()},
    }


def test_json_lines_know_no_nan(tmp_path: Path) -> None:
    """NaN and infinity are null, so that every line is JSON."""
    odd = np.array([[1.0, math.nan], [math.inf, 2.0], [3.0, 4.0]])
    part(np.arange(3), odd=odd).write(path := tmp_path / "a.jsonl", "jsonl", "row")
    assert read(path)["odd"] == [[1.0, None], [None, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize("kind", ["npz", "parquet", "jsonl"])
def test_a_part_without_answers_is_a_file(kind: str, tmp_path: Path) -> None:
    """All rows of a part may be bad: the part is done all the same."""
    empty = OutputPart(
        index=0,
        rows=1,
        keys=np.array([], np.int64),
        outputs={"y": np.empty((0, 3), np.float32)},
        bad=(BadRow(0, None, "…"),),
    )
    empty.write(path := tmp_path / f"a.{kind}", kind, "row")
    assert path.is_file()
    if kind != "jsonl":
        assert read(path) == {"row": [], "y": []}


def test_rows_without_an_answer_keep_their_key_and_reason(tmp_path: Path) -> None:
    """One line for each; a key that could not be read is left out."""
    bad = (BadRow(3, "a\n", "wrong"), BadRow(9, None, "cut"))
    OutputPart(index=0, rows=2, keys=np.array([]), outputs={}, bad=bad).write_bad(
        tmp_path / "b", "id"
    )
    assert [json.loads(line) for line in (tmp_path / "b").read_text("utf-8").splitlines()] == [
        {"row": 3, "id": "a\n", "reason": "wrong"},
        {"row": 9, "reason": "cut"},
    ]


def test_names_are_the_ledger() -> None:
    """Only whole parts of the same job count."""
    names = [part_name(7, PRINT, "npz"), part_name(1_234_567, PRINT, "npz"), bad_name(8, PRINT)]
    others = [part_name(9, "f" * 64, "npz"), ".writing-" + part_name(3, PRINT, "npz"), "part-1.npz"]
    assert finished([*names, *others], PRINT) == {7, 1_234_567}
    assert all(is_ours(name) for name in [*names, "job.json", "done.json", others[0]])
    assert not any(is_ours(name) for name in [*others[1:], "notes.txt"])


@pytest.mark.parametrize(
    ("dtype", "kind", "key", "words"),
    [
        ("complex64", "parquet", "row", "parquet has no complex numbers: use --format npz"),
        ("complex64", "jsonl", "row", "jsonl has no complex"),
        ("float32", "npz", "y", "an output 'y', which is also the name of the column of keys"),
    ],
)
def test_answers_that_a_format_cannot_hold(dtype: str, kind: str, key: str, words: str) -> None:
    """Found out before anything is run."""
    spec = TensorSpec(dtype=dtype, shape=(None,))
    with pytest.raises(ConfigError, match=words):
        check_outputs(Signature(inputs={"x": spec}, outputs={"y": spec}), kind, key)


def test_a_file_that_fails_half_way_is_not_there(tmp_path: Path) -> None:
    """Neither under its name nor under another one."""

    def write(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with Folder(tmp_path / "out") as place:
        place.put("a", lambda path: path.write_text("whole") and None)
        with pytest.raises(StorageError, match="no room"):
            place.put("b", write)
        assert (place.names(), place.read("a")) == ({"a"}, b"whole")
    assert os.listdir(tmp_path / "out") == ["a"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    """A second one is told; the lock ends with its holder, and what it left is swept."""
    code = (
        "import pathlib, sys, time; from maas_sdk.batch.destination import Folder\n"
        "with Folder(pathlib.Path(sys.argv[1])) as place:\n"
        "    place.put('a', lambda p: (p.write_text('half'), print('in', flush=True), "
        "time.sleep(60)))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(ConfigError, match="another process writes its answers there"):
            Folder(tmp_path)
        other.kill()
    assert os.listdir(tmp_path) == [".writing-a"]
    with Folder(tmp_path) as place:
        assert place.names() == set()
    assert os.listdir(tmp_path) == []


def test_a_place_that_is_none(tmp_path: Path) -> None:
    """A file where the folder should be."""
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="is not a folder"):
        Folder(tmp_path / "out")
