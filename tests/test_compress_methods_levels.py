from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from maas_sdk.compress.methods.grids import symmetric
from maas_sdk.compress.methods.levels import activations, signs
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array

MATRICES = arrays.arrays(np.float32, (4, 8), elements=st.floats(-1000, 1000, width=32))


def squares(w: Array, decoded: Array) -> float:
    return float(((w.astype(float) - decoded) ** 2).sum())


def test_both_orders_by_hand() -> None:
    """XNOR-Net's mean and sign, and HORQ's of what is left; then the refit, which is exact here."""
    w = np.array([[1, -1, 3, -3]], np.float32)
    first = signs(w, order=1)
    assert first.betas.tolist() == [[[2.0]]]
    assert first.codes.tolist() == [[1, 0, 1, 0]]
    second = signs(w, order=2, rounds=0)
    assert second.betas.tolist() == [[[2.0, 1.0]]]
    # 1 = 2 − 1, −1 = −2 + 1, 3 = 2 + 1, −3 = −2 − 1: bit 0 is the first sign, bit 1 the second.
    assert second.codes.tolist() == [[0b01, 0b10, 0b11, 0b00]]
    uneven = signs(np.array([[1, 1, 1, 5]], np.float32), order=2)
    assert uneven.betas.tolist() == [[[3.0, 2.0]]]
    assert uneven.decode().tolist() == [[1, 1, 1, 5]]


@settings(max_examples=150, deadline=None)
@given(w=MATRICES, granularity=st.sampled_from(["tensor", "channel", 2, 4]))
def test_more_levels_and_more_rounds_never_cost(w: Array, granularity: Any) -> None:
    """Second order has at most the error of first, and each round at most that before."""
    errors = [squares(w, signs(w, order=1, granularity=granularity).decode())]
    for rounds in (0, 1, 2, 10):
        found = signs(w, order=2, granularity=granularity, rounds=rounds)
        errors.append(squares(w, found.decode()))
        first, second = found.betas[..., 0], found.betas[..., 1]
        assert (second >= 0).all()
        assert rounds == 0 or (first >= second).all()
    slack = 1e-5 * float((w.astype(float) ** 2).sum())
    assert all(later <= earlier + slack for earlier, later in pairwise(errors))


@settings(max_examples=100, deadline=None)
@given(w=MATRICES, order=st.sampled_from([1, 2]))
def test_signs_name_the_nearest_level(w: Array, order: int) -> None:
    """No other combination of signs is nearer."""
    found = signs(w, order=order)
    one = found.betas[:, :, 0]
    two = found.betas[:, :, 1] if order == 2 else np.zeros_like(one)
    every = np.concatenate([one + two, one - two, two - one, -one - two], axis=1)[:, None]
    nearest = np.abs(w[..., None] - every).min(-1)
    assert (np.abs(found.decode() - w) <= nearest + 1e-3).all()
    assert found.codes.max() < 2**order


def test_one_factor_is_the_least_squares_optimum() -> None:
    """mean|w| is where the error is least (XNOR-Net, equation 6)."""
    w = np.random.default_rng(0).standard_normal((1, 500), np.float32)
    found = signs(w, order=1)
    least = squares(w, found.decode())
    for factor in (0.99, 1.01):
        assert squares(w, found.decode() * factor) > least


def test_four_levels_of_normal_weights() -> None:
    """Within 0.1 dB of 4.40 and 9.30 (Max 1960, table I), above HORQ's own and above int2."""
    w = np.random.default_rng(0).standard_normal((64, 4096), np.float32)
    power = float((w.astype(float) ** 2).sum())
    found = {
        rounds: 10 * np.log10(power / squares(w, signs(w, order=2, rounds=rounds).decode()))
        for rounds in (0, 10)
    }
    one = 10 * np.log10(power / squares(w, signs(w, order=1).decode()))
    grid = symmetric(w, bits=2, clip="mse").decode()
    assert one == pytest.approx(4.40, abs=0.1)
    assert found[10] == pytest.approx(9.30, abs=0.1)
    assert found[0] < found[10] - 0.3
    assert 10 * np.log10(power / squares(w, grid)) < found[10] - 1


def test_a_channel_beyond_a_tile_is_one_channel() -> None:
    """Sums over tiles give the same levels as the matrix in another shape."""
    w = np.random.default_rng(0).standard_normal((3, 100_000), np.float32)
    tensor, long = signs(w, order=2, granularity="tensor"), signs(w.reshape(1, -1), order=2)
    np.testing.assert_array_equal(tensor.betas, long.betas)
    np.testing.assert_array_equal(tensor.codes.reshape(1, -1), long.codes)


@pytest.mark.parametrize("order", [1, 2])
def test_activations_are_the_same_compiled(order: int) -> None:
    """jax.numpy under jit gives numpy's signs and, to rounding, its factors, along any axis."""
    x = np.random.default_rng(0).standard_normal((3, 5, 16), np.float32)
    for axis in (-1, 1):
        betas, found = activations(x, order, axis)
        compiled = jax.jit(lambda x, axis=axis: activations(x, order, axis, jnp))(x)
        np.testing.assert_allclose(compiled[0], betas, rtol=1e-5)
        np.testing.assert_array_equal(compiled[1], found)
        shared = list(x.shape)
        shared[axis] = 1
        assert betas.shape == (*shared, order)
        assert found.shape == (*x.shape, order)
        assert found.dtype == np.int8


def test_activations_follow_the_published_formulas() -> None:
    """A row has the levels that weights without rounds have."""
    x = np.random.default_rng(0).standard_normal((4, 64), np.float32)
    expected = signs(x, order=2, rounds=0)
    betas, found = activations(x, 2)
    np.testing.assert_allclose(betas, expected.betas, rtol=1e-6)
    np.testing.assert_allclose((betas * found).sum(-1), expected.decode(), rtol=1e-5)


def test_what_is_refused() -> None:
    """Orders and rounds that there are not, and weights that are not finite."""
    w = np.ones((2, 4), np.float32)
    for call in (lambda: signs(w, order=3), lambda: activations(w, 3)):
        with pytest.raises(ConfigError, match=r"order: expected 1 .* or 2 .*, got 3; for more"):
            call()
    with pytest.raises(ConfigError, match="rounds: expected 0 or more, got -1"):
        signs(w, order=2, rounds=-1)
    with pytest.raises(InputError, match="got nan"):
        signs(w * np.nan, order=1)
