from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maas_sdk.compress.quantize import quantize

RNG = np.random.default_rng(0)
# Kernel, row, and what else the convolution is told. Wide ones become matrix products; narrow,
# grouped, transposed and oddly laid out ones are computed as floats or as they stand.
IMAGE = ("NHWC", "HWIO", "NHWC")
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "wide": ((3, 3, 48, 8), (7, 6, 48), {"dimension_numbers": IMAGE}),
    "pointwise": ((1, 1, 160, 8), (5, 4, 160), {"dimension_numbers": IMAGE}),
    "strided": (
        (3, 3, 64, 8),
        (9, 8, 64),
        {"dimension_numbers": IMAGE, "window_strides": (2, 3), "padding": ((1, 0), (2, 3))},
    ),
    "dilated": ((2, 3, 64, 8), (9, 9, 64), {"dimension_numbers": IMAGE, "rhs_dilation": (2, 3)}),
    "cut": (
        (3, 3, 64, 4),
        (9, 9, 64),
        {"dimension_numbers": IMAGE, "padding": ((-1, 0), (0, -2))},
    ),
    "of one dimension": ((5, 64, 8), (12, 64), {"dimension_numbers": ("NWC", "WIO", "NWC")}),
    "of three": (
        (2, 2, 3, 48, 4),
        (4, 5, 6, 48),
        {"dimension_numbers": ("NDHWC", "DHWIO", "NDHWC")},
    ),
    "narrow": ((3, 3, 4, 8), (6, 6, 4), {"dimension_numbers": IMAGE}),
    "grouped": ((3, 3, 1, 32), (6, 6, 32), {"feature_group_count": 32, "dimension_numbers": IMAGE}),
    "transposed": (
        (3, 3, 48, 8),
        (5, 5, 48),
        {"dimension_numbers": IMAGE, "lhs_dilation": (2, 2), "padding": ((2, 2), (2, 2))},
    ),
    "transposed and large": (
        (1, 1, 1100, 8),
        (3, 3, 1100),
        {"dimension_numbers": IMAGE, "lhs_dilation": (2, 2), "padding": ((1, 1), (1, 1))},
    ),
    "features first": (
        (8, 1100, 1, 1),
        (1100, 4, 4),
        {"dimension_numbers": ("NCHW", "OIHW", "NCHW")},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_convolution_is_that_of_whole_numbers(case: str) -> None:
    """However it is computed, the sums of codes are exact: scaled, they are the answer's bits."""
    kernel, row, options = CASES[case]
    options = {"window_strides": (1,) * (len(row) - 1), "padding": "SAME", **options}
    weights = {"w": RNG.normal(size=kernel).astype(np.float32)}
    rows = RNG.normal(size=(3, *row)).astype(np.float32)

    def apply(weights: Mapping[str, Any], x: Any) -> Any:
        return jax.lax.conv_general_dilated(x, weights["w"], **options)

    model = quantize(apply, "int8", example_inputs=rows, weights=weights, min_size=1)
    weight = model.weights["w"]
    codes = weight.stored.tensors["w/codes"]
    scale = weight.stored.tensors["w/scale"].reshape(-1)
    steps = np.abs(rows).max(axis=tuple(range(1, rows.ndim)), keepdims=True) / np.float32(127)
    given = np.clip(np.rint(rows / steps), -127, 127)
    # In float64 every whole number here is exact.
    with jax.enable_x64(True):
        sums = np.asarray(
            jax.lax.conv_general_dilated(
                jnp.asarray(given, jnp.float64), jnp.asarray(codes, jnp.float64), **options
            )
        )
    assert (sums == np.rint(sums)).all()
    channels = 1 if options["dimension_numbers"][2].index("C") == 1 else -1
    shape = [1] * rows.ndim
    shape[channels] = -1
    expected = sums.astype(np.float32) * steps * scale.reshape(shape)
    np.testing.assert_allclose(model(rows), expected, rtol=3e-7)


def test_rows_stay_apart() -> None:
    """An image with NaN makes its own answer NaN, and nothing else."""
    weights = {"w": RNG.normal(size=(3, 3, 64, 8)).astype(np.float32)}
    rows = RNG.normal(size=(3, 6, 6, 64)).astype(np.float32)

    def apply(weights: Mapping[str, Any], x: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x, weights["w"], (1, 1), "SAME", dimension_numbers=IMAGE
        )

    model = quantize(apply, "int8", example_inputs=rows, weights=weights)
    before = np.asarray(model(rows))
    rows[1, 0, 0, 0] = np.nan
    after = np.asarray(model(rows))
    assert np.isnan(after[1]).all()
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
