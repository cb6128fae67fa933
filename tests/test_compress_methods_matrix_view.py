from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maas_sdk.compress.methods.matrix_view import MatrixView

DENSE = MatrixView(shape=(6, 4), out_axes=(1,), in_axes=(0,))
CONV = MatrixView(shape=(3, 3, 4, 5), out_axes=(3,), in_axes=(0, 1, 2))
HEADS = MatrixView(shape=(6, 2, 3), out_axes=(1, 2), in_axes=(0,))
MIDDLE = MatrixView(shape=(2, 8, 3), out_axes=(0, 2), in_axes=(1,))
LAYOUTS = {"dense": DENSE, "conv": CONV, "heads": HEADS, "middle": MIDDLE}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_weight_is_a_matrix_and_back(layout: MatrixView) -> None:
    """A row per output channel, a column per input; nothing is lost either way."""
    weight = np.arange(np.prod(layout.shape), dtype=np.float32).reshape(layout.shape)
    matrix = layout.to_matrix(weight)
    assert matrix.shape == (layout.channels, layout.inputs)
    assert layout.channels * layout.inputs == weight.size
    np.testing.assert_array_equal(layout.from_matrix(matrix), weight)
    # A row is what one output sums over.
    first = weight[tuple(0 if a in layout.out_axes else slice(None) for a in range(weight.ndim))]
    np.testing.assert_array_equal(matrix[0], first.reshape(-1))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_scales_lie_beside_the_weight(layout: MatrixView) -> None:
    """A number per channel, or for all, broadcasts against the weight as it lies."""
    weight = np.ones(layout.shape, np.float32)
    per_channel = np.arange(1, layout.channels + 1, dtype=np.float32)[:, None]
    scaled = weight * layout.from_matrix(per_channel)
    np.testing.assert_array_equal(
        layout.to_matrix(scaled), np.broadcast_to(per_channel, (layout.channels, layout.inputs))
    )
    assert layout.from_matrix(np.ones((1, 1))).shape == (1,) * weight.ndim


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_groups_are_neighbours(layout: MatrixView) -> None:
    """Numbers per group of g inputs lie along the last summed axis, I/g of them."""
    size = layout.group(2)
    assert size == 2
    groups = layout.inputs // size
    counted = np.arange(layout.channels * groups, dtype=np.float32)
    numbers = counted.reshape(layout.channels, groups)
    laid = layout.from_matrix(numbers)
    axis = layout.in_axes[-1]
    assert laid.shape[axis] * size == layout.shape[axis]
    spread = np.repeat(laid, size, axis=axis)
    np.testing.assert_array_equal(layout.to_matrix(spread), np.repeat(numbers, size, axis=1))


@pytest.mark.parametrize(
    ("size", "wanted", "found"),
    [(128, 64, 64), (96, 64, 48), (100, 64, 50), (7, 64, None), (32, 64, 32), (97, 64, None)],
)
def test_the_size_of_a_group_divides_the_inputs(size: int, wanted: int, found: Any) -> None:
    """The largest that does; none where it would be less than a quarter of what was wanted."""
    assert MatrixView(shape=(size, 3), out_axes=(1,), in_axes=(0,)).group(wanted) == found


def test_numbers_of_several_levels() -> None:
    """M numbers for each channel lie on an axis behind the weight's own."""
    betas = np.arange(10, dtype=np.float32).reshape(5, 1, 2)
    laid = CONV.from_levels(betas)
    assert laid.shape == (1, 1, 1, 5, 2)
    np.testing.assert_array_equal(laid.reshape(5, 2), betas[:, 0])


def test_layers_of_a_stack() -> None:
    """A stack gives its layers one by one, anything else itself."""
    weight = np.arange(24.0).reshape(2, 3, 4)
    stacked = MatrixView(shape=(3, 4), out_axes=(1,), in_axes=(0,), stack=2)
    assert [layer.shape for layer in stacked.layers(weight)] == [(3, 4), (3, 4)]
    np.testing.assert_array_equal(stacked.layers(weight)[1], weight[1])
    (only,) = DENSE.layers(weight)
    assert only is weight
