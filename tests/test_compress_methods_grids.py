from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from maas_sdk.compress.methods import cluster, hashing, levels, magnitude, nf4
from maas_sdk.compress.methods.grids import (
    BITS,
    FLOAT8,
    fixed_point,
    float8,
    largest,
    scales,
    symmetric,
)
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array

MATRICES = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.sampled_from([4, 8, 12])),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)
GRANULARITIES = st.sampled_from(["tensor", "channel", 2, 4])


def sqnr(w: Array, decoded: Array) -> float:
    """Signal over squared error, in dB."""
    return float(10 * np.log10((w.astype(float) ** 2).sum() / ((w - decoded) ** 2.0).sum()))


def per_weight(scale: Array, shape: tuple[int, ...]) -> Array:
    """A scale for each weight."""
    scale = np.repeat(scale, shape[1] // scale.shape[1], axis=1)
    return np.broadcast_to(scale, shape)


def test_a_matrix_by_hand() -> None:
    """Three bits: steps of a third of the largest, ties to even."""
    w = np.array([[3.0, -1.6, 0.5, 0.0], [0.25, 0.5, -0.75, 0.125]], np.float32)
    found = symmetric(w, bits=3)
    assert found.codes.tolist() == [[3, -2, 0, 0], [1, 2, -3, 0]]
    assert found.scale.tolist() == [[1.0], [0.25]]
    grouped = symmetric(w, bits=3, granularity=2)
    np.testing.assert_allclose(grouped.scale, [[1.0, 0.5 / 3], [0.5 / 3, 0.25]])
    assert grouped.codes.tolist() == [[3, -2, 3, 0], [2, 3, -3, 0]]
    assert symmetric(w, bits=2, granularity="tensor").scale.tolist() == [[3.0]]


@settings(max_examples=200, deadline=None)
@given(w=MATRICES, bits=st.sampled_from(BITS), granularity=GRANULARITIES)
def test_no_weight_is_further_than_half_a_step(w: Array, bits: int, granularity: Any) -> None:
    """The bound of the grid, and its invariants: codes in range, scales positive and normal."""
    found = symmetric(w, bits=bits, granularity=granularity)
    assert found.codes.dtype == np.int8
    assert np.abs(found.codes).max() <= 2 ** (bits - 1) - 1
    assert found.scale.dtype == np.float32
    assert (found.scale >= np.finfo(np.float32).tiny).all()
    step = per_weight(found.scale, w.shape)
    assert (np.abs(found.decode() - w) <= step * (0.5 + 1e-4)).all()


@settings(max_examples=100, deadline=None)
@given(w=MATRICES, bits=st.sampled_from(BITS), granularity=GRANULARITIES)
def test_a_searched_range_never_costs(w: Array, bits: int, granularity: Any) -> None:
    """clip="mse" has at most the squared error of the whole range, which it tries too."""
    whole, best = (
        np.square(
            w - symmetric(w, bits=bits, granularity=granularity, clip=clip).decode(), dtype=float
        )
        for clip in ("max", "mse")
    )
    assert best.sum() <= whole.sum() * (1 + 1e-5)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_uniform_noise_has_six_db_for_every_bit(bits: int) -> None:
    """For uniform weights SQNR is 20 log10(2^bits − 1), within 0.1 dB (Bennett 1948)."""
    w = np.random.default_rng(0).uniform(-1, 1, (64, 4096)).astype(np.float32)
    # 2^bits − 2 steps span the range.
    expected = 20 * np.log10(2**bits - 2)
    found = sqnr(w, symmetric(w, bits=bits, granularity="tensor").decode())
    # At few bits the clipped half steps at the ends are missing, which helps.
    assert expected - 0.1 < found < expected + 0.1 + 10 * np.log10(1 + 2 / 2**bits)


@pytest.mark.parametrize(("bits", "gain"), [(2, 5), (3, 3), (4, 1.5), (8, 0)])
def test_fewer_bits_gain_more_from_a_searched_range(bits: int, gain: float) -> None:
    """On normal weights per channel: so many dB at least."""
    w = np.random.default_rng(0).standard_normal((32, 1024), np.float32)
    plain, searched = (
        sqnr(w, symmetric(w, bits=bits, clip=clip).decode()) for clip in ("max", "mse")
    )
    assert searched - plain >= gain


def test_smaller_groups_are_closer() -> None:
    """A scale per channel beats one for all, and one per group beats it, where sizes differ."""
    random = np.random.default_rng(0)
    w = random.standard_normal((64, 256), np.float32) * random.lognormal(size=(64, 1))
    found = [
        sqnr(w, symmetric(w, bits=4, granularity=granularity).decode())
        for granularity in ("tensor", "channel", 32)
    ]
    assert found == sorted(found)


def test_scales_are_those_of_the_codes() -> None:
    """For all granularities and both ways to find the range."""
    w = np.random.default_rng(0).standard_normal((8, 64), np.float32)
    for granularity in ("tensor", "channel", 16):
        for clip in ("max", "mse"):
            expected = symmetric(w, bits=4, granularity=granularity, clip=clip).scale
            found = scales(w, bits=4, granularity=granularity, clip=clip)
            np.testing.assert_array_equal(found, expected)


def test_a_row_longer_than_a_tile_is_one_channel() -> None:
    """The result does not depend on how the matrix is read, nor on its order in memory."""
    w = np.random.default_rng(0).standard_normal((4, 300_000), np.float32)
    flat = symmetric(w.reshape(1, -1), bits=4, clip="mse")
    tensor = symmetric(w, bits=4, granularity="tensor", clip="mse")
    np.testing.assert_array_equal(flat.codes.reshape(w.shape), tensor.codes)
    for granularity in ("channel", 1000, 300_000):
        found = symmetric(w, bits=4, granularity=granularity)
        other = symmetric(np.asfortranarray(w), bits=4, granularity=granularity)
        np.testing.assert_array_equal(found.codes, other.codes)
        alone = symmetric(w[2:3], bits=4, granularity=granularity)
        np.testing.assert_array_equal(found.codes[2:3], alone.codes)
        np.testing.assert_array_equal(found.scale[2:3], alone.scale)


@pytest.mark.parametrize("make", [lambda w: symmetric(w, bits=4, clip="mse"), float8, fixed_point])
def test_zeros_have_scale_one(make: Any) -> None:
    """A channel without a weight, or with numbers that XLA takes for zero, decodes to zeros."""
    make = (
        (lambda w: fixed_point(w, bits=4, granularity="channel")) if make is fixed_point else make
    )
    w = np.array([[0, 0], [1, 2], [1e-42, -1e-44]], np.float32)
    found = make(w)
    assert found.scale[[0, 2]].tolist() == [[1.0], [1.0]]
    assert not found.decode()[[0, 2]].any()
    assert found.decode()[1].any()


@settings(max_examples=100, deadline=None)
@given(w=MATRICES, dtype=st.sampled_from(FLOAT8), granularity=GRANULARITIES)
def test_float8_keeps_its_mantissa(w: Array, dtype: str, granularity: Any) -> None:
    """A weight that is no subnormal of its group has the relative error of the dtype."""
    found = float8(w, granularity, dtype)
    assert found.codes.dtype.name == dtype
    assert np.isfinite(found.decode()).all()
    mantissa, least = {"float8_e4m3fn": (3, 2.0**-6), "float8_e5m2": (2, 2.0**-14)}[dtype]
    step = per_weight(found.scale, w.shape)
    bound = np.maximum(np.abs(w), least * step) * 2.0 ** -(mantissa + 1)
    assert (np.abs(found.decode() - w) <= bound * (1 + 1e-5)).all()


def test_the_largest_float8() -> None:
    """As the paper has them (Micikevicius et al. 2022, table 1)."""
    assert [largest(name) for name in FLOAT8] == [448.0, 57344.0]


def test_fixed_point_by_hand() -> None:
    """The point moves so that the largest weight just fits."""
    w = np.array([[1.75, -0.26, 0.25, 0.0]], np.float32)
    # Q1.2: steps of a quarter reach 7 / 4.
    found = fixed_point(w, bits=4)
    assert found.scale.tolist() == [[0.25]]
    assert found.codes.tolist() == [[7, -1, 1, 0]]
    # Q2.1: a little more than 7 / 4 needs twice the step.
    assert fixed_point(w + 0.01, bits=4).scale.tolist() == [[0.5]]
    # Q0.3 clips at 7 / 8; Q−2.5 has steps of 1 / 32; Q9.−6 of 64.
    assert fixed_point(w, bits=4, integer_bits=0).codes.tolist() == [[7, -2, 2, 0]]
    assert fixed_point(w / 8, bits=4).scale.tolist() == [[1 / 32]]
    assert fixed_point(w * 256, bits=4).scale.tolist() == [[64.0]]


@settings(max_examples=100, deadline=None)
@given(w=MATRICES, bits=st.sampled_from(BITS), granularity=GRANULARITIES)
def test_fixed_point_is_the_smallest_that_fits(w: Array, bits: int, granularity: Any) -> None:
    """Half a step holds, and with half the scale something would be clipped."""
    found = fixed_point(w, bits=bits, granularity=granularity)
    assert (np.frexp(found.scale)[0] == 0.5).all()
    step = per_weight(found.scale, w.shape)
    assert (np.abs(found.decode() - w) <= step * 0.5).all()
    top = 2 ** (bits - 1) - 1
    reach = (
        np.abs(w).reshape(*found.scale.shape, -1) if granularity != "tensor" else np.abs(w)[None]
    )
    reach = reach.max(-1) if granularity != "tensor" else reach.max(keepdims=True)[0]
    used = reach.reshape(found.scale.shape) > 2.0**-100
    assert (found.scale * (top / 2) < reach.reshape(found.scale.shape))[used].all()


def test_fixed_point_gives_up_range_for_resolution() -> None:
    """With outliers, "mse" takes a smaller step, and is closer."""
    w = np.random.default_rng(0).standard_t(3, (32, 1024)).astype(np.float32)
    whole, best = (fixed_point(w, bits=4, clip=clip) for clip in ("max", "mse"))
    assert best.scale < whole.scale
    assert sqnr(w, best.decode()) > sqnr(w, whole.decode()) + 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: symmetric(w, bits=5), "bits: expected one of 2, 3, 4, 8, got 5; codebooks"),
        (lambda w: symmetric(w, bits=4, clip="best"), "clip: expected one of max, mse, got 'best'"),
        (lambda w: scales(w, bits=4, clip="best"), "clip: expected one of max, mse, got 'best'"),
        (lambda w: float8(w, dtype="float8_e8m0fnu"), "dtype: expected one of float8_e4m3fn, fl"),
        (lambda w: fixed_point(w, bits=16), "bits: expected one of 2, 3, 4, 8, got 16"),
        (lambda w: fixed_point(w, bits=8, clip="best"), "clip: expected one of"),
        (lambda w: fixed_point(w, bits=8, integer_bits=70), "integer_bits: expected -64 to 64"),
        (lambda w: symmetric(w, bits=4, granularity=3), "groups of 3 do not divide 8 inputs"),
    ],
)
def test_options_that_there_are_not(call: Callable[[Array], Any], message: str) -> None:
    """The message says which there are."""
    with pytest.raises(ConfigError, match=message):
        call(np.ones((2, 8), np.float32))


@pytest.mark.parametrize(
    "call", [lambda w: symmetric(w, bits=4), float8, lambda w: fixed_point(w, bits=4)]
)
def test_weights_that_are_not_finite(call: Callable[[Array], Any]) -> None:
    """Every grid refuses them."""
    with pytest.raises(InputError, match="got nan at output 1, input 2"):
        call(np.array([[0, 1, 2], [0, 1, np.nan]], np.float32))


# Bytes of what is made beside a result, and of results per weight. Half of the 32 MB that are
# promised, so that a copy of the matrix is caught.
BESIDE = 16 * 2**20
CASES: dict[str, tuple[Callable[[Array], Any], float]] = {
    "symmetric": (lambda w: symmetric(w, bits=4, clip="mse"), 1),
    "symmetric in groups": (lambda w: symmetric(w, bits=4, granularity=32, clip="mse"), 1.125),
    "symmetric of all": (lambda w: symmetric(w, bits=8, granularity="tensor", clip="mse"), 1),
    "float8": (lambda w: float8(w, 64), 1.0625),
    "fixed_point": (lambda w: fixed_point(w, bits=8, clip="mse"), 1),
    "nf4": (lambda w: nf4.nf4(w), 1.0625),
    "kmeans": (lambda w: cluster.kmeans(w, bits=4), 1),
    "kmeans of channels": (lambda w: cluster.kmeans(w, bits=2, granularity="channel"), 1),
    "sparse": (lambda w: cluster.sparse(w, bits=4, sparsity=0.5), 1.5),
    "mask": (lambda w: magnitude.magnitude_mask(w, 0.5), 1),
    "signs": (lambda w: levels.signs(w, order=2), 1),
    "hashed": (lambda w: hashing.hashed(w, buckets=1000), 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("turned", [False, True])
def test_little_memory_is_taken_beside_the_result(name: str, turned: bool) -> None:
    """Of 32 MB of weights, in either order in memory: the result and less than half as much."""
    w = np.random.default_rng(0).standard_normal((2048, 4096), np.float32)
    call, bytes_per_weight = CASES[name]
    tracemalloc.start()
    try:
        result = call(w.T if turned else w)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result is not None
    assert peak - bytes_per_weight * w.size < BESIDE
