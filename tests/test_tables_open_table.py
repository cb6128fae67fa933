"""Files as rows: the same rows out of every format, and what is said of those that are none."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it has no types
import pyarrow.csv  # type: ignore[import-untyped]  # it has no types
import pyarrow.parquet  # type: ignore[import-untyped]  # it has no types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maas_sdk.batch.config import BatchConfig
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tables.lines import blocks, lines_of
from maas_sdk.tables.open_table import RowSource, open_table
from maas_sdk.tensors import Signature, TensorSpec
from maas_sdk.training.data import read_csv

ROWS = 5000
X = np.random.default_rng(0).random((ROWS, 4), np.float32)
KEYS = [f"k{row}" for row in range(ROWS)]


def takes(**inputs: str) -> Signature:
    """``takes(x="float32[4]")``: a signature; what it gives does not matter here."""
    specs = {}
    for name, text in inputs.items():
        dtype, _, dims = text.rstrip("]").partition("[")
        sizes = [int(size) for size in dims.split(",") if size]
        specs[name] = TensorSpec(dtype=dtype, shape=(None, *sizes))
    return Signature(inputs=specs, outputs={"y": TensorSpec(dtype="float32", shape=(None,))})


FOUR = takes(x="float32[4]")


def opened(path: Path, signature: Signature = FOUR, **options) -> RowSource:
    return open_table(path, signature.inputs, BatchConfig(**options), chunk_rows=64)


def everything(source: RowSource, first: int = 0):
    """All good rows' numbers, keys and first input, and the bad rows; chunks are in a row."""
    numbers, keys, values, bad, behind = [], [], [], [], None
    share = 0.0
    for chunk in source.read(first):
        assert behind in (None, chunk.first)
        assert share <= chunk.share <= 1
        behind, share = chunk.stop, chunk.share
        numbers += chunk.numbers.tolist()
        keys += (chunk.numbers if chunk.keys is None else chunk.keys).tolist()
        values += list(next(iter(chunk.inputs.values())))
        bad += chunk.bad
        assert len(chunk.numbers) + len(chunk.bad) == chunk.rows
    return numbers, keys, np.array(values), bad


def table() -> pa.Table:
    return pa.table({"id": KEYS, **{f"f{column}": X[:, column] for column in range(4)}})


def write_npy(path: Path) -> dict:
    np.save(path, X)
    return {}


def write_npz(path: Path) -> dict:
    np.savez_compressed(path, x=X, id=np.array(KEYS))
    return {"key": "id"}


def write_parquet(path: Path) -> dict:
    pa.parquet.write_table(table(), path, row_group_size=700)
    return {"key": "id"}


def write_lists(path: Path) -> dict:
    pa.parquet.write_table(pa.table({"x": X.tolist(), "id": KEYS}), path, row_group_size=700)
    return {"key": "id"}


def write_csv(path: Path) -> dict:
    pa.csv.write_csv(table(), path)
    return {"key": "id"}


def write_jsonl(path: Path) -> dict:
    lines = (json.dumps({"id": key, "x": row}) for key, row in zip(KEYS, X.tolist(), strict=True))
    path.write_text("\n".join(lines))
    return {"key": "id"}


def write_bare(path: Path) -> dict:
    path.write_text("\n".join(map(json.dumps, X.tolist())) + "\n\n")
    return {}


WRITERS = {
    "rows.npy": write_npy,
    "rows.npz": write_npz,
    "rows.parquet": write_parquet,
    "lists.parquet": write_lists,
    "rows.csv": write_csv,
    "rows.jsonl": write_jsonl,
    "bare.ndjson": write_bare,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    """Numbers, keys and values come back, from the start and from the middle."""
    options = WRITERS[name](tmp_path / name)
    source = opened(tmp_path / name, **options)
    assert source.key == options.get("key", "row")
    numbers, keys, values, bad = everything(source)
    assert (numbers, bad) == (list(range(ROWS)), [])
    assert keys == (KEYS if options else numbers)
    np.testing.assert_array_equal(values, X)
    assert source.rows in (None, ROWS)
    later = everything(source, 1234)
    assert later[0][-1] == ROWS - 1
    assert later[0][0] <= 1234
    np.testing.assert_array_equal(later[2], X[later[0][0] :])


@pytest.mark.parametrize("name", [name for name in WRITERS if not name.endswith(("csv", "json"))])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.999])
def test_a_file_that_is_cut_is_told(name: str, share: float, tmp_path: Path) -> None:
    """Refused when it is opened or, of lines, the last row is: never a wrong row."""
    options = WRITERS[name](path := tmp_path / name)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    if share and name.endswith(("jsonl", "ndjson")):
        numbers, _, values, bad = everything(opened(path, **options))
        np.testing.assert_array_equal(values, X[: len(numbers)])
        assert [row.row for row in bad] in ([], [len(numbers)])
        assert all("is the line cut?" in row.reason for row in bad)
        return
    with pytest.raises(InputError, match=rf"{path}: .*(cut|found no line)"):
        everything(opened(path, **options))


@pytest.mark.parametrize("name", ["rows.npz", "rows.parquet"])
def test_a_damaged_file_gives_no_wrong_row(name: str, tmp_path: Path) -> None:
    """A flipped bit among the values is noticed by the sums that the file carries."""
    if name == "rows.parquet":
        pa.parquet.write_table(table(), tmp_path / name, write_page_checksum=True)
    else:
        np.savez(tmp_path / name, x=X, id=np.array(KEYS))
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=r"cut or damaged"):
        everything(opened(tmp_path / name, key="id"))


def test_bad_rows_of_a_csv(tmp_path: Path) -> None:
    """Each costs itself alone, whatever it is; the row behind a stray quote is still a row."""
    path = tmp_path / "bad.csv"
    path.write_bytes(
        b"\xef\xbb\xbfid,a,b\r\n1,1,2\r\n2,x,2\r\n3,1\r\n\r\n4,1,2,3\r\n5,,2\r\n6,1_0,2\r\n"
        b'7,"1,2\r\n8,\xff,2\r\n,1,2\r\n"9","1","nan"\r\n10, 5 ,1e2'
    )
    numbers, keys, values, bad = everything(opened(path, takes(x="float32[2]"), key="id"))
    assert (numbers, keys) == ([0, 9, 10], ["1", "9", "10"])
    np.testing.assert_array_equal(values, np.array([[1, 2], [1, np.nan], [5, 100]]))
    assert [(row.row, row.key, row.reason) for row in bad] == [
        (1, "2", "column 'a': expected a number, found 'x'"),
        (2, "3", "expected 3 values, found 2; is the line cut?"),
        (3, "4", "expected 3 values, found 4; is the line cut?"),
        (4, "5", "column 'a' is empty"),
        (5, "6", "column 'a': expected a number, found '1_0'"),
        (6, None, "not a line of csv: unexpected end of data"),
        (7, None, "the line is not UTF-8"),
        (8, None, "key 'id' is empty"),
    ]


def test_whole_numbers_of_a_csv_are_exact(tmp_path: Path) -> None:
    """Beyond 2^53, where floats have gaps, also in a block with a bad row; 3.0 is whole."""
    path = tmp_path / "whole.csv"
    path.write_text(f"n\n{2**53 + 1}\n")
    assert everything(opened(path, takes(n="int64")))[2].tolist() == [2**53 + 1]
    path.write_text(f"n\n{2**53 + 1}\n1.5\n3.0\n")
    _, _, values, [bad] = everything(opened(path, takes(n="int64")))
    assert values.tolist() == [2**53 + 1, 3]
    assert bad.reason == "input 'n': expected an integer, int64, found 1.5"


def test_bad_rows_of_json_lines(tmp_path: Path) -> None:
    """Fields that are missing or of another type, and lines that are no JSON."""
    path = tmp_path / "bad.jsonl"
    path.write_bytes(
        b'{"id": "a", "x": [1, 2], "more": 1}\n{"id": 7, "x": [[1], [2]]}\n{"id": "c"}\nnull\n'
        b'{"x": [1, 2]}\n{"id": "f", "x": "12"}\n{"id": 1.5, "x": [1, 2]}\n\xff\n'
        b'{"id": "i", "x": [1e999, 2]}\n{"id": "j", "x": [3, 4]'
    )
    numbers, keys, _, bad = everything(opened(path, takes(x="float32[2]"), key="id", finite=True))
    assert (numbers, keys) == ([0], ["a"])
    assert [row.reason.partition("? ")[0] for row in bad] == [
        "input 'x': expected float32[2], found shape [2, 1]",
        "field 'x' is missing",
        "expected a JSON object, found null",
        "key 'id' is missing",
        "input 'x': expected float32[2], found '12'",
        "key 'id' is 1.5, expected text or a whole number",
        "the line is not UTF-8",
        "input 'x': expected a finite float32, found inf, number 0 of 2",
        "not JSON, is the line cut",
    ]
    assert [row.key for row in bad] == ["7", "c", None, None, "f", None, None, "i", None]


def test_bad_rows_of_parquet(tmp_path: Path) -> None:
    """Values that are missing, inside lists too, and lists of another length."""
    path = tmp_path / "bad.parquet"
    lists = [[1.0, 2.0], None, [1.0], [1.0, None], [5.0, 6.0]]
    pa.parquet.write_table(pa.table({"id": [1, 2, 3, 4, None], "x": lists}), path)
    numbers, keys, values, bad = everything(opened(path, takes(x="float32[2]"), key="id"))
    assert (numbers, keys, values.tolist()) == ([0], [1], [[1.0, 2.0]])
    assert [row.reason for row in bad] == [
        "input 'x': expected float32[2], found null",
        "input 'x': expected float32[2], found shape [1]",
        "input 'x': expected float32[2], found null",
        "key 'id' is missing",
    ]
    assert [row.key for row in bad][:3] == [2, 3, 4]


def test_decimals_of_a_parquet_are_numbers(tmp_path: Path) -> None:
    """As databases write them: floats, whole ones exactly, also in lists; a missing one is bad."""
    path = tmp_path / "decimals.parquet"
    prices = pa.array([Decimal("1.25"), None, Decimal("-3.5")], pa.decimal128(10, 2))
    counts = pa.array([Decimal(2**53 + 1), Decimal(0), Decimal(-5)], pa.decimal128(18, 0))
    pairs = pa.array([[Decimal("1.5")] * 2] * 3, pa.list_(pa.decimal128(4, 1)))
    pa.parquet.write_table(pa.table({"p": prices, "n": counts, "l": pairs}), path)
    source = opened(path, takes(p="float64", n="int64", l="float32[2]"))
    [chunk] = source.read(0)
    assert chunk.inputs["p"].tolist() == [1.25, -3.5]
    assert chunk.inputs["n"].tolist() == [2**53 + 1, -5]
    assert chunk.inputs["l"].tolist() == [[1.5, 1.5]] * 2
    assert [row.reason for row in chunk.bad] == ["input 'p': expected one float64, found null"]


SAME = {
    "text": ("a,b\n1,0\nx,1\n", "column 'a': expected a number, found 'x'"),
    "nothing": ("a,b\n1,0\n,1\n", "column 'a' is empty"),
    "not finite": ("a,b\n1,0\nnan,1\n", "column 'a': expected a finite float32, found nan"),
    "cut": ("a,b\n1,0\n2\n", "expected 2 values, found 1; is the line cut?"),
}


@pytest.mark.parametrize("case", SAME)
def test_training_says_of_a_file_what_batch_prediction_says(case: str, tmp_path: Path) -> None:
    """The same reason: there the row is set aside, here it is an error with the row's number."""
    text, reason = SAME[case]
    path = csv_of(tmp_path / "a.csv", text)
    [bad] = everything(opened(path, takes(x="float32[2]"), finite=True))[3]
    assert bad.reason == reason
    with pytest.raises(InputError) as caught:
        read_csv(path, labels="b")
    assert caught.value.message == f"{path}: row {bad.row + 2}, {reason}"


@pytest.mark.parametrize("name", ["keys.parquet", "keys.npz"])
def test_large_keys_are_exact(name: str, tmp_path: Path) -> None:
    """Unsigned ones too, which integers of 64 bits with a sign do not hold."""
    keys = np.array([2**64 - 1, 7], np.uint64)
    if name.endswith("npz"):
        np.savez(tmp_path / name, x=X[:2], id=keys)
    else:
        pa.parquet.write_table(pa.table({"x": X[:2].tolist(), "id": keys}), tmp_path / name)
    assert everything(opened(tmp_path / name, key="id"))[1] == [2**64 - 1, 7]


def test_two_inputs_of_named_columns(tmp_path: Path) -> None:
    """``columns`` says what an input is made of; the other takes the column of its name."""
    path = tmp_path / "two.parquet"
    pa.parquet.write_table(pa.table({"b": [1, 2], "n": [7, 8], "a": [0.5, 1.5]}), path)
    signature = takes(n="int32", x="float32[2]")
    [chunk] = opened(path, signature, columns={"x": ("a", "b")}).read(0)
    assert chunk.inputs["n"].tolist() == [7, 8]
    assert chunk.inputs["x"].tolist() == [[0.5, 1.0], [1.5, 2.0]]


def save(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


def csv_of(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def parquet_of(path: Path, **columns) -> Path:
    pa.parquet.write_table(pa.table(columns), path)
    return path


REFUSED: dict[str, tuple[Callable[[Path], Path], dict, str]] = {
    "nothing there": (lambda t: t / "no.csv", {}, "no such file or folder"),
    "another kind": (lambda t: csv_of(t / "a.txt", ""), {}, r"ends in \.npy, "),
    "no such column": (
        lambda t: csv_of(t / "a.csv", "a,b\n1,2\n"),
        {"key": "id"},
        r"missing: \['id'\]; --columns",
    ),
    "too many columns": (
        lambda t: csv_of(t / "a.csv", "a,b,c,d,e\n1,2,3,4,5\n"),
        {},
        r"float32\[B, 4\], 4 numbers in a row, but gets 5 columns, \['a', .*--ignore",
    ),
    "a csv with semicolons": (
        lambda t: csv_of(t / "a.csv", "a;b;c;d\n1;2;3;4\n"),
        {},
        r"expected commas .*, found ';': write the table with the delimiter ','",
    ),
    "a column twice": (lambda t: csv_of(t / "a.csv", "a,a,b,c\n1,2,3,4\n"), {}, r"twice: \['a'\]"),
    "no such input": (
        lambda t: csv_of(t / "a.csv", "a,b,c,d\n1,2,3,4\n"),
        {"columns": {"z": ("a",)}},
        "no input 'z'; the program has x",
    ),
    "one column of a csv for four": (
        lambda t: csv_of(t / "a.csv", "x\n1\n"),
        {},
        "expected 4 columns of one number each, found 1",
    ),
    "text in a parquet": (
        lambda t: parquet_of(t / "a.parquet", x=["a", "b"]),
        {},
        "column 'x': expected numbers, or lists of numbers, found string",
    ),
    "floats as keys": (
        lambda t: parquet_of(t / "a.parquet", x=[[1.0] * 4], id=[0.5]),
        {"key": "id"},
        "column 'id': expected integers or text, found double",
    ),
    "an empty parquet": (
        lambda t: parquet_of(t / "a.parquet", x=pa.array([], pa.list_(pa.float32()))),
        {},
        "no rows",
    ),
    "objects in an npz": (
        lambda t: save(t / "a.npz", x=np.array([None])),
        {},
        r"expected numbers \[N, …\], found object",
    ),
    "another shape": (
        lambda t: save(t / "a.npz", x=X[:, :3]),
        {},
        r"expected float32\[B, 4\], 4 numbers in a row, found float32\[0, 3\]",
    ),
    "other numbers of rows": (
        lambda t: save(t / "a.npz", x=X, id=np.arange(3)),
        {"key": "id"},
        "the same number of rows, found x 5000, id 3",
    ),
    "columns in memory": (
        lambda t: save(t / "a.npz", x=np.asfortranarray(X)),
        {},
        "np.ascontiguousarray",
    ),
    "no rows": (lambda t: save(t / "a.npz", x=X[:0]), {}, "there are no rows"),
    "no JSON at all": (lambda t: csv_of(t / "a.jsonl", "x\ny\n"), {}, "found no line that is one"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_are_refused_as_a_whole(case: str, tmp_path: Path) -> None:
    """Where no row could be answered, the message says what was expected and what was found."""
    make, options, words = REFUSED[case]
    with pytest.raises((InputError, ConfigError), match=words):
        opened(make(tmp_path), **options)


def test_an_npy_has_no_keys(tmp_path: Path) -> None:
    """One array without a name: options that name columns are refused."""
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(ConfigError, match=r"put the arrays into an \.npz"):
        opened(tmp_path / "x.npy", key="id")
    with pytest.raises(InputError, match="the program has inputs a, b"):
        opened(tmp_path / "x.npy", takes(a="float32", b="float32"))


FIELDS = st.sampled_from(["1", "2.5", "", "x", '"3"', "1e3", " 4", "é", "\x00", "nan", "_"])
LINES = st.lists(st.lists(FIELDS, max_size=4).map(",".join), max_size=8)


@settings(max_examples=60)
@given(lines=LINES, junk=st.binary(max_size=6), ends=st.sampled_from(["\n", "\r\n"]))
def test_any_csv_is_rows_or_flaws(lines, junk, ends, tmp_path_factory) -> None:
    """Each line that is not empty is one row, good or bad; good values are what float() says."""
    path = tmp_path_factory.mktemp("fuzz") / "a.csv"
    body = ends.join(["a,b", *lines]).encode() + ends.encode() + junk
    path.write_bytes(body)
    numbers, _, values, bad = everything(opened(path, takes(x="float64[2]")))
    found = lines_of(body)[1:]
    assert sorted([*numbers, *(row.row for row in bad)]) == list(range(len(found)))
    for number, value in zip(numbers, values, strict=True):
        expected = [float(text.strip('"')) for text in found[number].decode().split(",")]
        np.testing.assert_array_equal(value, expected)


TEXTS = st.text(st.sampled_from('a"\n\r,; é'), min_size=1, max_size=5)
VALUES = st.sampled_from(["1", "2.5", "x", ""])


@settings(max_examples=100)
@given(rows=st.lists(st.tuples(TEXTS, VALUES), min_size=1, max_size=8))
def test_a_quoted_value_may_hold_anything(rows, tmp_path_factory) -> None:
    """As RFC 4180 has it: what ``csv`` writes is one row each, with its key, good or bad."""
    path = tmp_path_factory.mktemp("fuzz") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "x"), *rows])
    numbers, keys, values, bad = everything(opened(path, takes(x="float64"), key="id"))
    good = [row for row, (_, value) in enumerate(rows) if value in ("1", "2.5")]
    assert numbers == good
    assert keys == [rows[row][0] for row in good]
    assert values.tolist() == [float(rows[row][1]) for row in good]
    assert [(row.row, row.key) for row in bad] == [
        (row, rows[row][0]) for row in range(len(rows)) if row not in good
    ]


def test_a_row_over_the_border_of_two_blocks_is_one(tmp_path: Path) -> None:
    """A value with line breaks that is longer than what is read at a time."""
    path = tmp_path / "a.csv"
    long = "line\n" * 100_000
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("id", "x"), *((f"{n}{long}", n) for n in range(5)), ("last", 5)]
        )
    numbers, keys, values, bad = everything(opened(path, takes(x="float32"), key="id"))
    assert (numbers, bad) == (list(range(6)), [])
    assert keys == [*(f"{n}{long}" for n in range(5)), "last"]
    assert values.tolist() == list(range(6))


@settings(max_examples=60)
@given(quotes=st.lists(st.sampled_from(["1,2", '1,"', '"', '"1",2', '1,"2""']), max_size=9))
def test_a_stray_quote_loses_no_line(quotes, tmp_path_factory) -> None:
    """Rows are numbered without a gap, and one behind all quotes is a row again."""
    path = tmp_path_factory.mktemp("fuzz") / "a.csv"
    path.write_text("\n".join(["a,b", *quotes, "5,6", "7,8", ""]))
    numbers, _, values, bad = everything(opened(path, takes(x="float64[2]")))
    assert sorted([*numbers, *(row.row for row in bad)]) == list(range(len(numbers) + len(bad)))
    assert values[-1].tolist() == [7, 8]


@settings(max_examples=60)
@given(lines=st.lists(st.binary(max_size=12), max_size=6))
def test_any_json_lines_are_rows_or_flaws(lines, tmp_path_factory) -> None:
    """The same of JSON lines, behind a first one that is good."""
    path = tmp_path_factory.mktemp("fuzz") / "a.jsonl"
    path.write_bytes(b"\n".join([b'{"x": 1}', *lines]))
    numbers, _, _, bad = everything(opened(path, takes(x="float32")))
    total = len(lines_of(path.read_bytes()))
    assert sorted([*numbers, *(row.row for row in bad)]) == list(range(total))


@settings(max_examples=60)
@given(place=st.integers(0, 200), value=st.integers(0, 255))
def test_a_changed_byte_of_an_npy_header_is_refused_or_harmless(
    place, value, tmp_path_factory
) -> None:
    """Never anything but our own error; a file that still opens has rows of the input's size."""
    path = tmp_path_factory.mktemp("fuzz") / "a.npy"
    np.save(path, X[:20])
    data = bytearray(path.read_bytes())
    data[place] = value
    path.write_bytes(data)
    try:
        numbers, *_ = everything(opened(path))
    except InputError:
        return
    assert len(numbers) == 20


def test_blocks_are_whole_lines_whatever_their_length(tmp_path: Path) -> None:
    """Lines longer than a block come whole; one without an end is refused, not gathered."""
    path = tmp_path / "a.txt"
    path.write_bytes(data := b"1234\n" + b"x" * 50 + b"\n\nlast")
    found = list(blocks(path, block_bytes=7))
    assert b"".join(block for block, _ in found) == data
    assert all(block.endswith(b"\n") for block, _ in found[:-1])
    assert found[-1][1] == 1.0
    with pytest.raises(InputError, match="no end of line within 20 bytes"):
        list(blocks(path, block_bytes=7, max_line_bytes=20))
