from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maas_sdk.compress.methods import tiles
from maas_sdk.compress.methods.tiles import cells, check_matrix, read, shared_shape
from maas_sdk.errors import ConfigError, InputError


@st.composite
def shapes(draw: st.DrawFn) -> tuple[tuple[int, int], Any]:
    outputs, groups, group = (draw(st.integers(1, 9)) for _ in range(3))
    inputs = groups * group
    return (outputs, inputs), draw(st.sampled_from(["tensor", "channel", group]))


@settings(max_examples=200, deadline=None)
@given(case=shapes(), limit=st.integers(1, 40))
def test_tiles_cover_a_matrix_once_and_keep_groups_together(case: Any, limit: int) -> None:
    """Each weight is read once, in the row and column of its group, in tiles of a bounded size."""
    shape, granularity = case
    w = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape) + 1
    sums = np.zeros(shared_shape(shape, granularity))
    seen: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE", limit)
        for cell in cells(shape, granularity):
            for tile in cell.tiles:
                values = read(w, tile)
                assert values.size <= max(limit, 1)
                sums[cell.at] += values.sum(-1)
                seen += values.reshape(-1).tolist()
                assert values.reshape(tile.shape).tolist() == w[tile.at].tolist()
    assert sorted(seen) == w.reshape(-1).tolist()
    folded = w.reshape(-1, *([shape[1]] if granularity != "tensor" else [w.size]))
    expected = folded.reshape(*sums.shape, -1).sum(-1)
    np.testing.assert_array_equal(sums, expected)


def test_tiles_of_the_whole_matrix_are_in_its_order() -> None:
    """A matrix whose rows are longer than a tile is read element after element."""
    w = np.arange(2 * (tiles.TILE + 3), dtype=np.float32).reshape(2, -1)
    (cell,) = cells(w.shape, "tensor")
    read_in_order = np.concatenate([read(w, tile).reshape(-1) for tile in cell.tiles])
    np.testing.assert_array_equal(read_in_order, w.reshape(-1))


@pytest.mark.parametrize(
    ("w", "message"),
    [
        (np.zeros(3, np.float32), r"expected a matrix \[outputs, inputs\].*got shape \[3\]"),
        (np.zeros((3, 0), np.float32), r"with elements, got shape \[3, 0\]"),
        (np.zeros((3, 2), np.int8), r"expected floats, got int8; convert"),
    ],
)
def test_what_is_no_matrix_of_floats_is_refused(w: Any, message: str) -> None:
    """The message says what came, and what to do."""
    with pytest.raises(InputError, match=message):
        check_matrix(w)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_named(value: float) -> None:
    """By output and input, wherever in the matrix its tile lies."""
    w = np.zeros((600, 1000), np.float32)
    w[523, 17] = value
    (cell,) = cells(w.shape, "tensor")
    with pytest.raises(InputError, match=r"output 523, input 17.*earlier checkpoint"):
        any(read(w, tile).any() for tile in cell.tiles)


@pytest.mark.parametrize(
    ("granularity", "message"),
    [
        (5, "groups of 5 do not divide 12 inputs; the next smaller one that does is 4"),
        (40, "the next smaller one that does is 12"),
        (0, "expected 'tensor', 'channel' or a number of inputs ≥ 1, got 0"),
        ("row", "got 'row'"),
        (True, "got True"),
    ],
)
def test_a_granularity_that_there_is_not(granularity: Any, message: str) -> None:
    """The message names one that fits."""
    with pytest.raises(ConfigError, match=message):
        shared_shape((4, 12), granularity)


def test_floats_of_other_widths_are_read_as_float32() -> None:
    """bfloat16 and float16 weights need no conversion beforehand."""
    import ml_dtypes

    for dtype in (ml_dtypes.bfloat16, np.float16, np.float64):
        w = check_matrix(np.full((2, 2), 1.5, dtype))
        (cell,) = cells(w.shape, "tensor")
        assert read(w, cell.tiles[0]).dtype == np.float32
