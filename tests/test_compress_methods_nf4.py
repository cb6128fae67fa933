from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from qwix._src.core.numerics import fp_to_nf4, get_nf4_buckets

from maas_sdk.compress.methods.grids import symmetric
from maas_sdk.compress.methods.nf4 import levels, nf4
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array

# Dettmers et al. 2023, appendix E.
PUBLISHED = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]


def sqnr(w: Array, decoded: Array) -> float:
    return float(10 * np.log10((w.astype(float) ** 2).sum() / ((w - decoded) ** 2.0).sum()))


def test_the_levels_are_the_published_ones() -> None:
    """The formula gives the paper's table and qwix's, to a few units of float32's last place."""
    np.testing.assert_allclose(levels(), PUBLISHED, atol=2e-7)
    np.testing.assert_allclose(levels(), np.asarray(get_nf4_buckets()), atol=2e-7)
    assert levels().dtype == np.float32
    assert levels()[[0, 7, 15]].tolist() == [-1, 0, 1]


def test_levels_are_nobodys_to_change() -> None:
    """Each call gives an array of its own."""
    levels()[:] = 0
    assert levels()[15] == 1


def test_codes_are_those_of_qwix() -> None:
    """On normal weights scaled to [−1, 1], per group."""
    w = np.random.default_rng(0).standard_normal((8, 128), np.float32)
    found = nf4(w, granularity=64)
    assert found.scale.shape == (8, 2)
    scaled = w.reshape(8, 2, 64) / found.scale[..., None]
    expected = np.asarray(fp_to_nf4(scaled)).astype(np.uint8).reshape(w.shape)
    np.testing.assert_array_equal(found.codes, expected)


@settings(max_examples=100, deadline=None)
@given(
    w=arrays.arrays(np.float32, (3, 8), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    granularity=st.sampled_from(["tensor", "channel", 4]),
)
def test_each_code_is_of_the_nearest_level(w: Array, granularity: Any) -> None:
    """Half the widest gap bounds the error; extremes and zero are exact."""
    found = nf4(w, granularity=granularity)
    assert found.codes.max() <= 15
    assert (found.scale > 0).all()
    step = np.repeat(
        np.broadcast_to(found.scale, (3, found.scale.shape[1])), 8 // found.scale.shape[1], 1
    )
    widest = np.diff(levels()).max()
    assert (np.abs(found.decode() - w) <= step * (widest / 2 + 1e-6)).all()
    exact = (w == 0) | ((np.abs(w) == step) & (step > 2.0**-126))
    np.testing.assert_array_equal(found.decode()[exact], w[exact])


def test_normal_weights_are_closer_than_on_a_grid() -> None:
    """In groups of 64: a dB better than int4 at the same bits, as the levels are where they are."""
    w = np.random.default_rng(0).standard_normal((64, 1024), np.float32)
    grid = sqnr(w, symmetric(w, bits=4, granularity=64).decode())
    assert sqnr(w, nf4(w).decode()) > grid + 1


def test_what_is_refused() -> None:
    """A group that does not divide the inputs, and weights that are not finite."""
    with pytest.raises(ConfigError, match=r"groups of 64 do not divide 8 inputs; .* is 8"):
        nf4(np.ones((2, 8), np.float32))
    with pytest.raises(InputError, match="got nan at output 0, input 1"):
        nf4(np.array([[0, np.nan]], np.float32), granularity="channel")
