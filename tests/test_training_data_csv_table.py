from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes, load_iris

from maas_sdk.errors import DependencyError, InputError
from maas_sdk.training.data import read_csv

IRIS = load_iris()
HEADER = "sepal length,sepal width,petal length,petal width,species"
ROWS = [
    ",".join([*map(repr, row.tolist()), str(label)])
    for row, label in zip(IRIS.data, IRIS.target, strict=True)
]
TEXT = "\n".join([HEADER, *ROWS]) + "\n"


def file_of(folder: Path, text: str | bytes) -> Path:
    file = folder / "table.csv"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def test_iris_comes_back(tmp_path: Path) -> None:
    """Real rows: all columns but the label are inputs, in float32; classes in int32."""
    found = read_csv(file_of(tmp_path, TEXT), labels="species", rows=150)
    np.testing.assert_array_equal(found.inputs, IRIS.data.astype(np.float32))
    np.testing.assert_array_equal(found.labels, IRIS.target)
    assert (found.inputs.dtype, found.labels.dtype) == (np.float32, np.int32)


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    """In the order asked for; others may hold anything. A byte order mark is no part of a name."""
    text = "\ufeffa,note,b,y\n1,x,2,0\n3,,4,1\n"
    found = read_csv(file_of(tmp_path, text), labels="y", inputs=["b", "a"])
    np.testing.assert_array_equal(found.inputs, [[2, 1], [4, 3]])


def test_values_to_regress_on(tmp_path: Path) -> None:
    """Labels that are no classes, here a measure of diabetes and one with decimals."""
    diabetes = load_diabetes()
    table = np.column_stack([diabetes.data, diabetes.target / 3])
    names = [*diabetes.feature_names, "progression"]
    file = tmp_path / "diabetes.csv"
    np.savetxt(file, table, fmt="%.17g", delimiter=",", header=",".join(names), comments="")
    found = read_csv(file, labels="progression", classes=False)
    np.testing.assert_array_equal(found.labels, table[:, -1].astype(np.float32))
    with pytest.raises(
        InputError, match=r"column 'progression': expected an integer, int32, found 50\.3"
    ):
        read_csv(file, labels="progression")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,y\n1,0\n2,1\nx,1\n", "row 4, column 'a': expected a number, found 'x'"),
        ("a,y\n1,0\n,1\n", "row 3, column 'a' is empty"),
        ("a,y\n1,0\n2,setosa\n", "row 3, column 'y': expected an integer, found 'setosa'"),
        ("a,y\n1,0\nnan,1\n", "row 3, column 'a': expected a finite float32, found nan"),
        ("a,y\n1,0\n1e39,1\n", r"row 3, column 'a': expected a finite float32, found 1e\+39"),
        ("a,y\n1,0\n2\n", r"row 3, expected 2 values, found 1; is the line cut\?"),
        (
            "a,y\n1,99999999999\n",
            "row 2, column 'y': expected int32, -2147483648 to 2147483647, found 99999999999",
        ),
        (
            "a,species\n1,0\n",
            r"expected columns \['a', 'species', 'y'\], found \['a', 'species'\]; missing: "
            r"\['y'\]; inputs= and labels= name the columns",
        ),
        ("a;b;y\n1;2;0\n", "found ';': write the table with the delimiter ','"),
        ("a,a,y\n1,2,0\n", r"twice: \['a'\]"),
        ("y\n1\n", r"expected columns \[\] and 'y'"),
        ("a,y\n", "expected one or more rows, found 0"),
        ("", "names in its first line: the first line is empty"),
        (b"\xff\xfea,y\n1,0\n", "cannot be read as a csv in UTF-8"),
    ],
)
def test_a_table_of_another_schema(tmp_path: Path, text: Any, message: str) -> None:
    """The message has the file, the row and column, what was expected and what was found."""
    file = file_of(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        read_csv(file, labels="y")
    assert str(caught.value).startswith(str(file))


def test_a_row_far_down_is_named_too(tmp_path: Path) -> None:
    """Arrow reads a megabyte at a time; its count goes on behind the first."""
    lines = ["some_feature,y", *["0.123456789012345,1"] * 150_000]
    lines[123_455] = "0.1x,1"
    file = file_of(tmp_path, "\n".join(lines))
    with pytest.raises(InputError, match=r"row 123456, column 'some_feature': .* found '0.1x'"):
        read_csv(file, labels="y")


def test_a_csv_cut_behind_a_value_is_told_by_its_rows(tmp_path: Path) -> None:
    """Nothing in the file says so; whoever knows how many rows there are, asks."""
    cut = file_of(tmp_path, TEXT[: TEXT.index("\n", 2000) + 1])
    assert len(read_csv(cut, labels="species")) < 150
    with pytest.raises(InputError, match=r"expected 150 rows, found \d+; is the file cut\?"):
        read_csv(cut, labels="species", rows=150)


def test_without_pyarrow_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exact line, as the extra is named."""
    monkeypatch.setitem(sys.modules, "pyarrow.csv", None)
    with pytest.raises(DependencyError, match=r"pip install 'maas-sdk\[data\]'"):
        read_csv(file_of(tmp_path, TEXT), labels="species")
    with pytest.raises(InputError, match="no such file"):
        read_csv(tmp_path / "none.csv", labels="species")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_an_error_of_ours_or_another_number(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Cut and flipped bytes: finite numbers of the right shape, or our error."""
    whole = "\n".join([HEADER, *ROWS[:20]]).encode()
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "damaged.csv"
    file.write_bytes(damaged)
    found, message = None, ""
    try:
        found = read_csv(file, labels="species")
    except InputError as error:
        message = str(error)
    if found is None:
        assert str(file) in message
    else:
        assert np.isfinite(found.inputs).all()
        assert len(found.inputs) == len(found.labels) <= 22
