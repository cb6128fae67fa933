from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maas_sdk.compress.quantize import quantize

RNG = np.random.default_rng(0)


def correlated(rows: int, inputs: int, outliers: int = 0) -> np.ndarray:
    """Inputs of low rank, some of which are thirty times as large as the others."""
    x = RNG.normal(size=(rows, 8)) @ RNG.normal(size=(8, inputs))
    x += 0.1 * RNG.normal(size=(rows, inputs))
    x[:, :outliers] *= 30
    return x.astype(np.float32)


def dense(w: Any, x: Any) -> Any:
    return x @ w["w"]


def error(recipe: str, fn: Any, weights: Any, rows: np.ndarray, **changes: Any) -> float:
    model = quantize(fn, recipe, rows, weights=weights, min_size=1, **changes)
    expected = np.asarray(fn({name: jnp.asarray(a) for name, a in weights.items()}, rows))
    return float(np.linalg.norm(model(rows) - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(("recipe", "most"), [("gptq", 0.6), ("adaquant", 0.6), ("awq", 0.95)])
def test_methods_that_calibrate_lose_less_than_rounding(recipe: str, most: float) -> None:
    """On inputs that go together, at 4 bits; each within its share of plain rounding's error."""
    weights = {"w": RNG.normal(size=(64, 32)).astype(np.float32)}
    rows = correlated(256, 64, outliers=4 if recipe == "awq" else 0)
    plain = error("int4w", dense, weights, rows)
    assert error(recipe, dense, weights, rows) < most * plain


def test_smoothquant_loses_less_than_int8() -> None:
    """Where a few inputs are thirty times as large as the others."""
    weights = {"w": RNG.normal(size=(64, 32)).astype(np.float32)}
    rows = correlated(256, 64, outliers=2)
    assert error("smoothquant", dense, weights, rows) < 0.7 * error("int8", dense, weights, rows)


def test_gptq_reaches_convolutions_and_stacks() -> None:
    """Both have their own inputs, and lose less than rounding does."""

    def conv(w: Any, x: Any) -> Any:
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w["w"], (1, 1), "SAME", dimension_numbers=numbers)

    kernel = {"w": RNG.normal(size=(3, 3, 16, 16)).astype(np.float32)}
    images = correlated(4 * 36, 16).reshape(4, 6, 6, 16)
    assert error("gptq", conv, kernel, images) < 0.8 * error("int4w", conv, kernel, images)

    def stacked(w: Any, x: Any) -> Any:
        return jax.lax.scan(lambda x, a: (x @ a, None), x, w["w"])[0]

    stack = {"w": (RNG.normal(size=(2, 64, 64)) / 8).astype(np.float32)}
    rows = correlated(256, 64)
    assert error("gptq", stacked, stack, rows) < 0.8 * error("int4w", stacked, stack, rows)


def test_smoothing_of_a_stack_and_where_it_is_read_whole() -> None:
    """Every layer has divisors of its own; an array of the whole stack has them undone."""

    def fn(w: Any, x: Any) -> Any:
        out = jax.lax.scan(lambda x, a: (x @ a, None), x, w["w"])[0]
        return out + jnp.sum(jnp.abs(w["w"]))

    stack = {"w": (RNG.normal(size=(2, 32, 32)) / 6).astype(np.float32)}
    assert error("smoothquant", fn, stack, correlated(64, 32, outliers=1)) < 0.05


@pytest.mark.parametrize("recipe", ["int8w", "int4w", "kmeans4", "gptq", "smoothquant", "int8"])
def test_the_error_that_is_reported_is_that_of_the_weight(recipe: str) -> None:
    """SQNR is 10·log10(Σ w² / Σ (w - ŵ)²), smoothing undone."""
    weight = RNG.normal(size=(64, 32)).astype(np.float32)
    rows = correlated(64, 64)
    model = quantize(dense, recipe, rows, weights={"w": weight})
    found = model.weights["w"].to_float()
    smooth = model.weights["w"].roles.get("smooth")
    if smooth is not None:
        found = found / smooth[:, None]
    sqnr = 10 * np.log10(np.sum(weight**2) / np.sum((weight - found) ** 2))
    (layer,) = model.report.layers
    assert layer.sqnr_db == pytest.approx(sqnr, abs=0.01)
    assert layer.relative_error == pytest.approx(10 ** (-sqnr / 20), rel=1e-3)


def test_rounding_is_at_most_half_a_step() -> None:
    """Every weight is within half a scale of where it was: max|w| clips nothing away."""
    weight = RNG.normal(size=(64, 32)).astype(np.float32)
    model = quantize(dense, "int8w", correlated(2, 64), weights={"w": weight})
    step = np.abs(weight).max(axis=0) / 127
    assert np.all(np.abs(model.weights["w"].to_float() - weight) <= step * 0.5001)


def test_a_norm_that_multiplies_with_zero() -> None:
    """A channel that is switched off stays so, and no division goes wrong."""
    weights = {
        "w": RNG.normal(size=(16, 8)).astype(np.float32),
        "k": np.array([0, 1, -2, 0.5, 0, 3, 1, 1], np.float32),
    }
    model = quantize(
        lambda w, x: (x @ w["w"]) * w["k"], "int8w", correlated(4, 16), weights=weights, min_size=1
    )
    rows = correlated(4, 16)
    expected = (rows @ weights["w"]) * weights["k"]
    np.testing.assert_allclose(model(rows), expected, atol=0.02 * np.abs(expected).max())
    np.testing.assert_array_equal(np.asarray(model(rows))[:, [0, 4]], 0)
