from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qwix._src.core import qarray
from qwix.contrib.awq_core import search_optimal_scales

from maas_sdk.compress.methods.grids import symmetric
from maas_sdk.compress.methods.smoothing import awq, smoothquant
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array


def layer(outputs: int = 64, inputs: int = 128) -> tuple[Array, Array]:
    """Weights, and rows of which some inputs have outliers."""
    random = np.random.default_rng(0)
    x = random.standard_normal((500, inputs)) * random.lognormal(0, 1.5, inputs)
    return random.standard_normal((outputs, inputs)).astype(np.float32), x.astype(np.float32)


def error_of_output(w: Array, decoded: Array, gram: Array) -> float:
    off = decoded.astype(float) - w
    return float(np.sum(off @ gram * off))


def test_equation_four_by_hand() -> None:
    """Squares roots of the ratio of limits at one half; ends of the range at 0 and 1."""
    w = np.array([[1, -4, 0, 2], [0.5, 2, 0, -2]], np.float32)
    limits = np.array([4.0, 1.0, 3.0, 0.0])
    np.testing.assert_allclose(smoothquant(limits, w), [2, 0.5, 1, 1])
    np.testing.assert_allclose(smoothquant(limits, w, alpha=1), [4, 1, 1, 1])
    np.testing.assert_allclose(smoothquant(limits, w, alpha=0), [1, 0.25, 1, 1])


def test_difficulty_is_shared() -> None:
    """At one half, scaled weights and inputs have the same limit at every input."""
    w, x = layer()
    scale = smoothquant(np.abs(x).max(0), w)
    assert scale.dtype == np.float32
    np.testing.assert_allclose(np.abs(w * scale).max(0), np.abs(x / scale).max(0), rtol=1e-5)
    np.testing.assert_allclose((x / scale) @ (w * scale).T, x @ w.T, rtol=1e-3, atol=1e-2)


def test_products_of_integers_gain() -> None:
    """With weights per channel and rows per row in 8 bits, the output's error falls by half."""
    w, x = layer()
    errors = []
    for scale in (np.ones(w.shape[1], np.float32), smoothquant(np.abs(x).max(0), w)):
        weights, rows = symmetric(w * scale, bits=8), symmetric(x / scale, bits=8)
        errors.append(np.square(rows.decode() @ weights.decode().T - x @ w.T).sum())
    assert errors[1] < errors[0] / 2


@settings(max_examples=100, deadline=None)
@given(alpha=st.floats(0, 1), exponents=st.lists(st.integers(-120, 120), min_size=8, max_size=8))
def test_scales_are_finite_and_invertible(alpha: float, exponents: list[int]) -> None:
    """Whatever the ratio of limits, scale and inverse are normal numbers."""
    limits = 2.0 ** np.array(exponents)
    scale = smoothquant(limits, np.full((1, 8), 2.0**-100, np.float32), alpha=alpha)
    assert np.isfinite(scale).all()
    assert np.isfinite(1 / scale).all()
    assert (scale > 2.0**-100).all()


@pytest.mark.parametrize("granularity", ["channel", 32])
@pytest.mark.parametrize("bits", [3, 4])
def test_important_inputs_are_protected(bits: int, granularity: Any) -> None:
    """Weights of large inputs are rounded finer, so outputs are closer than by rounding."""
    w, x = layer()
    gram = x.T.astype(float) @ x
    plain = symmetric(w, bits=bits, granularity=granularity).decode()
    for magnitudes in (None, np.abs(x).mean(0)):
        scale = awq(w, gram, bits=bits, granularity=granularity, magnitudes=magnitudes)
        found = symmetric(w * scale, bits=bits, granularity=granularity).decode() / scale
        assert error_of_output(w, found, gram) < 0.8 * error_of_output(w, plain, gram)


def test_the_search_is_that_of_qwix() -> None:
    """With its loss, a diagonal gram of mean|x|², the same exponent or the next one is found."""
    w, x = layer()
    magnitudes = np.abs(x).mean(0)
    how = qarray.HowToQuantize(
        qtype="int4", channelwise_axes=(0,), tiled_axes={}, calibration_method="absmax"
    )
    expected = np.asarray(search_optimal_scales(jnp.asarray(w), jnp.asarray(magnitudes), how))[0]
    gram = np.diag(magnitudes.astype(float) ** 2)
    found = awq(w, gram, bits=4, magnitudes=magnitudes)
    # log s is the exponent times log mean|x|, less a constant.
    exponents = [np.polyfit(np.log(magnitudes), np.log(scale), 1)[0] for scale in (found, expected)]
    assert abs(exponents[0] - exponents[1]) < 1.5 / 19
    error, theirs = (
        error_of_output(w, symmetric(w * s, bits=4).decode() / s, gram) for s in (found, expected)
    )
    assert error <= theirs * 1.001


def test_what_is_alike_stays() -> None:
    """Inputs of one magnitude, and no inputs at all, give s = 1."""
    w, _ = layer(8, 16)
    np.testing.assert_array_equal(awq(w, np.eye(16), bits=4), np.ones(16))
    np.testing.assert_array_equal(awq(w, np.zeros((16, 16)), bits=4), np.ones(16))


def test_a_few_channels_speak_for_many() -> None:
    """Of 4000 channels 512 decide, and the result is better than rounding on all."""
    w, x = layer(4000, 32)
    gram = x.T.astype(float) @ x
    scale = awq(w, gram, bits=3)
    found = symmetric(w * scale, bits=3).decode() / scale
    assert error_of_output(w, found, gram) < error_of_output(w, symmetric(w, bits=3).decode(), gram)


W = np.ones((2, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: smoothquant(np.ones(4), W, alpha=1.5), "alpha: expected a share 0 ≤ x ≤ 1, got 1"),
        (lambda: awq(W, np.eye(4), bits=4, steps=1), "steps: expected 2 or more exponents, got 1"),
        (lambda: awq(W, np.eye(4), bits=6), "bits: expected one of 2, 3, 4, 8, got 6"),
    ],
)
def test_options_that_there_are_not(call: Any, message: str) -> None:
    """The message says which there are."""
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: smoothquant(np.ones(3), W), r"limits: expected \[4\], one per input .* got \[3\]"),
        (lambda: smoothquant([1, 1, np.nan, 1], W), "limits: .* got nan at input 2; look for"),
        (lambda: smoothquant([1, 1, 1, -1], W), "limits: .* got -1.0 at input 3"),
        (lambda: smoothquant(np.ones(4), W * np.nan), "weights: .* got nan at output 0, input 0"),
        (lambda: awq(W, np.eye(3), bits=4), r"gram: expected \[4, 4\]"),
        (lambda: awq(W, np.eye(4), bits=4, magnitudes=[1]), r"magnitudes: expected \[4\]"),
        (lambda: awq(W * np.inf, np.eye(4), bits=4), "weights: .* got inf"),
    ],
)
def test_what_is_refused(call: Any, message: str) -> None:
    """Statistics of other inputs, or that are not finite; the message names the input."""
    with pytest.raises(InputError, match=message):
        call()
