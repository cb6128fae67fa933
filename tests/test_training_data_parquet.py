from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it has no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it has no types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits, load_wine

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.training.data import (
    Balanced,
    Nearby,
    Normalization,
    ParquetRows,
    Subset,
    batches,
    load,
    stratified_rows,
)

WINE = load_wine()
DIGITS = load_digits()


@pytest.fixture
def wine(tmp_path: Path) -> Path:
    """178 wines, 13 columns of measures and one of classes, in row groups of 32."""
    columns = dict(zip(WINE.feature_names, WINE.data.T, strict=True))
    file = tmp_path / "wine.parquet"
    pq.write_table(pa.table({**columns, "kind": WINE.target}), file, row_group_size=32)
    return file


def test_wines_come_back(wine: Path) -> None:
    """Any rows in any order, also twice, across row groups; and all of them in memory."""
    source = ParquetRows(wine, labels="kind")
    assert len(source) == 178
    rows = np.array([177, 0, 31, 32, 0])
    found = source.read(rows)
    np.testing.assert_array_equal(found["inputs"], WINE.data[rows].astype(np.float32))
    np.testing.assert_array_equal(found["labels"], WINE.target[rows])
    assert found["labels"].dtype == np.int32
    np.testing.assert_array_equal(load(source).inputs, WINE.data.astype(np.float32))
    np.testing.assert_array_equal(source.labels, WINE.target)
    assert source[5]["labels"] == WINE.target[5]
    with pytest.raises(IndexError):
        source[178]


def test_a_few_row_groups_are_in_memory(wine: Path) -> None:
    """Those used last; one that is kept is not decoded again."""
    source = ParquetRows(wine, labels="kind", groups_kept=2)
    decoded: list[int] = []
    inner = source._decoded

    def counting(group: int) -> Any:
        decoded.append(group)
        return inner(group)

    source._decoded = counting  # type: ignore[method-assign]
    for row in (0, 1, 33, 0, 65, 0, 33):
        source.read(np.array([row]))
    assert decoded == [0, 1, 2, 1]


def test_nearby_rows_decode_each_group_about_once(wine: Path) -> None:
    """Shuffled freely, two kept groups of six are decoded over and over; nearby, once an epoch."""
    decoded: dict[bool, int] = {}
    for near in (False, True):
        source = ParquetRows(wine, labels="kind", groups_kept=2)
        read: list[int] = []
        inner = source._decoded

        def counting(group: int, read: Any = read, inner: Any = inner) -> Any:
            read.append(group)
            return inner(group)

        source._decoded = counting  # type: ignore[method-assign]
        sampling = Nearby(groups=source.groups, together=2) if near else None
        run = batches(source, batch_size=4, seed=0, epochs=1, sampling=sampling, threads=0)
        rows = np.concatenate([batch["inputs"][:, 0] for batch in run])
        assert len(rows) == 176
        decoded[near] = len(read)
    assert decoded[True] <= 8
    assert decoded[False] > 5 * decoded[True]


def test_images_in_a_column_of_lists(tmp_path: Path) -> None:
    """Rows of one shape, of the dtype that the lists have; lists of either kind."""
    pixels = DIGITS.data.astype(np.uint8)
    for values in (
        pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), 64),
        pa.array(pixels.tolist(), pa.list_(pa.uint8())),
    ):
        file = tmp_path / "digits.parquet"
        table = pa.table({"pixels": values, "digit": DIGITS.target})
        pq.write_table(table, file, row_group_size=500)
        source = ParquetRows(file, labels="digit", inputs=["pixels"], shape=(8, 8, 1))
        found = source.read(np.array([1796, 3]))
        assert found["inputs"].dtype == np.uint8
        np.testing.assert_array_equal(found["inputs"][..., 0], DIGITS.images[[1796, 3]])
    with pytest.raises(InputError, match=r"rows of 64 numbers.* not have the shape \[9, 9\]"):
        ParquetRows(file, labels="digit", inputs=["pixels"], shape=(9, 9)).read(np.array([0]))


def test_a_run_over_a_file_is_that_over_memory(wine: Path) -> None:
    """A part of the file, balanced, normalized by its own statistics, read by threads."""
    source = ParquetRows(wine, labels="kind", groups_kept=1)
    train, _ = stratified_rows(source.labels, test_fraction=0.3, seed=0)
    part, memory = Subset(source, train), load(source).take(train)
    normalize = Normalization.fit(part)
    np.testing.assert_allclose(normalize.scale, Normalization.fit(memory).scale, rtol=1e-6)
    run = {
        "batch_size": 16,
        "seed": 0,
        "epochs": 2,
        "sampling": Balanced(labels=memory.labels),
        "normalize": normalize,
    }
    with batches(part, **run) as lazy:  # type: ignore[arg-type]
        for one, other in zip(lazy, batches(memory, **run), strict=True):  # type: ignore[arg-type]
            np.testing.assert_array_equal(one["inputs"], other["inputs"])
            np.testing.assert_array_equal(one["labels"], other["labels"])


GOOD = {"a": [1.0, 2.0, 3.0], "b": [1, 2, 3], "y": [0, 1, 0]}


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        (GOOD, {"labels": "z"}, r"expected columns \['a', 'b', 'y', 'z'\], found .* \['z'\]"),
        (GOOD, {"inputs": ["a", "c"]}, r"missing: \['c'\]"),
        (GOOD, {"labels": "a"}, "column 'a': expected integers, one class for each row, found dou"),
        ({**GOOD, "b": ["x", "y", "z"]}, {}, "column 'b': expected numbers, found string"),
        ({**GOOD, "b": [[1], [2], [3]]}, {}, "column 'b': expected numbers, found list"),
        ({**GOOD, "a": [1.0, None, 3.0]}, {}, "row 1, column 'a': expected a number, found null"),
        ({**GOOD, "y": [0, 1, None]}, {}, "row 2, column 'y': expected one int32, found null"),
        (
            {**GOOD, "a": [1.0, 2.0, np.inf]},
            {},
            "row 2, column 'a': expected a finite .* found inf",
        ),
        (
            {**GOOD, "a": [1.0, 1e39, 0]},
            {},
            r"row 1, column 'a': expected a finite .* found 1e\+39",
        ),
        (
            {**GOOD, "y": [0, 2**40, 0]},
            {},
            "row 1, column 'y': expected int32, .* found 109951162777",
        ),
        (
            {"x": [[1.0], [1.0, 2.0]], "y": [0, 1]},
            {},
            r"row 1, column 'x': expected float32\[1\], found shape \[2\]",
        ),
        (
            {"x": [[1.0], None], "y": [0, 1]},
            {},
            r"row 1, column 'x': expected float32\[1\], found null",
        ),
        ({"x": pa.array([], pa.int64()), "y": pa.array([], pa.int64())}, {}, "has no rows"),
    ],
)
def test_a_table_of_another_schema(
    tmp_path: Path, columns: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    """At the start, or when a row group with such a row is read; with the row of the file."""
    file = tmp_path / "data.parquet"
    pq.write_table(pa.table(columns), file, row_group_size=2)
    with pytest.raises(InputError, match=message) as caught:
        load(ParquetRows(file, **{"labels": "y", **settings}))
    assert str(caught.value).startswith(str(file))


def test_lists_keep_their_length_from_group_to_group(tmp_path: Path) -> None:
    """A batch has one shape, so a later row group may not have another."""
    file = tmp_path / "data.parquet"
    table = pa.table({"x": [[1.0], [2.0], [1.0, 2.0], [3.0, 4.0]], "y": [0, 1, 0, 1]})
    pq.write_table(table, file, row_group_size=2)
    with pytest.raises(
        InputError, match=r"row 2, column 'x': expected float32\[1\], found shape \[2\]"
    ):
        load(ParquetRows(file, labels="y"))


def test_a_file_that_is_not_there_or_no_table(tmp_path: Path) -> None:
    """No such file, another format, a number of groups that is none."""
    with pytest.raises(InputError, match="no such file"):
        ParquetRows(tmp_path / "none.parquet", labels="y")
    (tmp_path / "text.parquet").write_text("a,y\n1,0\n")
    with pytest.raises(InputError, match="cannot be read as parquet, it may be cut or damaged"):
        ParquetRows(tmp_path / "text.parquet", labels="y")
    with pytest.raises(ConfigError, match="groups_kept: expected 1 or more, got 0"):
        ParquetRows(tmp_path / "text.parquet", labels="y", groups_kept=0)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), checked=st.booleans())
def test_damage_is_an_error_of_ours_or_another_number(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, checked: bool
) -> None:
    """Cut anywhere it is refused; with bytes flipped, refused, or finite rows of the schema."""
    file = tmp_path_factory.getbasetemp() / "damaged.parquet"
    table = pa.table({"a": WINE.data[:40, 0], "b": WINE.data[:40, 1], "y": WINE.target[:40]})
    pq.write_table(table, file, row_group_size=16, write_page_checksum=checked)
    whole = file.read_bytes()
    if data.draw(st.booleans(), label="cut"):
        file.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(InputError):
            ParquetRows(file, labels="y")
        return
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(damaged)
    found, message = None, ""
    try:
        found = load(ParquetRows(file, labels="y", inputs=["a", "b"]))
    except InputError as error:
        message = str(error)
    if found is None:
        assert str(file) in message
    else:
        assert found.inputs.dtype == np.float32
        assert found.inputs.shape == (len(found), 2)
        assert np.isfinite(found.inputs).all()
