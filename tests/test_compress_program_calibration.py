from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from maas_sdk.compress.program.calibration import batches_of, example_of
from maas_sdk.errors import InputError

ROWS = np.random.default_rng(0).normal(size=(150, 3)).astype(np.float32)
FORMS = {
    "an array": lambda: ROWS,
    "a dict": lambda: {"input": ROWS},
    "an object": lambda: SimpleNamespace(inputs=ROWS, labels=None),
    "batches": lambda: [ROWS[:100], ROWS[100:]],
    "an iterator of pairs": lambda: ((ROWS[i : i + 7], None) for i in range(0, 150, 7)),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("rows", [1, 100, 1000])
def test_rows_of_any_form(name: str, rows: int) -> None:
    """All of them, or as many as are wanted, in their order."""
    found = batches_of(FORMS[name](), rows=rows)
    np.testing.assert_array_equal(np.concatenate([b["input"] for b in found]), ROWS[:rows])


def test_an_endless_iterator_is_left() -> None:
    """No more is drawn than is needed."""
    drawn = itertools.count()
    endless = (ROWS[:10] + 0 * next(drawn) for _ in itertools.repeat(0))
    assert len(batches_of(endless, rows=25)) == 3
    assert next(drawn) == 3


def test_one_row_may_be_constant() -> None:
    """A single row of one value says nothing wrong; integers are rows too."""
    assert len(batches_of(np.ones((1, 3), np.float32), rows=5)[0]["input"]) == 1
    assert len(batches_of(np.arange(12).reshape(4, 3), rows=5)[0]["input"]) == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": ROWS, "b": ROWS[:5]}, r"inputs disagree about the number of rows: .*150.*5"),
        ([ROWS, np.where(ROWS[3, 1] == ROWS, np.inf, ROWS)], "row 153 of 'input' holds NaN"),
        (np.array(["a", "b"]), r"'input': expected rows of numbers \[B, …\], got <U1"),
        ([np.float32(3)], r"expected rows of numbers"),
        ([ROWS, ROWS[:, :2]], r"expected rows as the model takes them"),
        ([], "there are no rows"),
    ],
)
def test_rows_that_are_none(given: Any, message: str) -> None:
    """The message says which row, and what is wrong with it."""
    with pytest.raises(InputError, match=message):
        batches_of(given, rows=1000)


def test_an_example() -> None:
    """Inputs by name, ``input`` where there is none."""
    assert [*example_of({"b": ROWS, "a": ROWS})] == ["a", "b"]
    assert [*example_of(ROWS)] == ["input"]
