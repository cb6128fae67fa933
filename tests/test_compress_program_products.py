from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from maas_sdk.compress.program.quantized_model import QuantizedModel
from maas_sdk.compress.program.quantized_weight import Activations
from maas_sdk.compress.quantize import quantize
from maas_sdk.errors import ConfigError

RNG = np.random.default_rng(0)
DENSE = {"w": RNG.normal(size=(48, 20)).astype(np.float32)}
KERNEL = {"w": RNG.normal(size=(3, 3, 4, 6)).astype(np.float32)}
TABLE = {"w": RNG.normal(size=(40, 16)).astype(np.float32)}
ROWS = RNG.normal(size=(5, 48)).astype(np.float32)
IMAGES = RNG.normal(size=(5, 6, 6, 4)).astype(np.float32)


def dense(weights: Mapping[str, Any], x: Any) -> Any:
    return x @ weights["w"]


def conv(weights: Mapping[str, Any], x: Any) -> Any:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, weights["w"], (1, 1), "SAME", dimension_numbers=numbers)


def lookup(weights: Mapping[str, Any], ids: Any) -> Any:
    return jnp.take(weights["w"], ids, axis=0)


CASES = {"dense": (dense, DENSE, ROWS), "conv": (conv, KERNEL, IMAGES)}


@functools.cache
def made(case: str, recipe: Any, **changes: Any) -> tuple[QuantizedModel, np.ndarray]:
    apply, weights, rows = CASES[case]
    return quantize(apply, recipe, rows, weights=weights, min_size=1, **changes), rows


FORMATS = ["int8w", "int4w", "int2w", "nf4", "fp8w", "kmeans3", "sparse4-50", "second-order"]
FORMATS += ["hashed8", "Q2.1"]


def decoded(model: QuantizedModel) -> np.ndarray:
    return model.weights["w"].to_float()


def int8_rows(x: np.ndarray, limit: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales of rows, by NumPy."""
    axes = tuple(range(1, x.ndim))
    largest = np.abs(x).max(axis=axes, keepdims=True) if limit is None else limit
    scale = np.asarray(largest, np.float32) / np.float32(127)
    return np.clip(np.rint(x / scale), -127, 127).astype(np.int64), scale


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_int8_by_hand(static: bool) -> None:
    """Round the input and the weight to whole numbers, multiply, scale: bit for bit the sum."""
    model, rows = made("dense", "int8-static" if static else "int8", ranges="minmax")
    scale_w = np.abs(DENSE["w"]).max(axis=0) / np.float32(127)
    codes_w = np.rint(DENSE["w"] / scale_w).astype(np.int64)
    codes, scale = int8_rows(rows, np.abs(rows).max() if static else None)
    expected = (codes @ codes_w).astype(np.float32) * scale * scale_w
    np.testing.assert_allclose(model(rows), expected, rtol=3e-7)


def test_int8_convolution_by_hand() -> None:
    """The same for a convolution, whose rows are whole images."""
    model, rows = made("conv", "int8")
    scale_w = np.abs(KERNEL["w"]).max(axis=(0, 1, 2)) / np.float32(127)
    codes_w = np.rint(KERNEL["w"] / scale_w)
    codes, scale = int8_rows(rows)
    total = conv({"w": codes_w.astype(np.float32)}, codes.astype(np.float32))
    np.testing.assert_allclose(
        model(rows), np.asarray(total) * scale * scale_w, rtol=1e-5, atol=1e-5
    )


def test_float8_by_hand() -> None:
    """Float8 inputs reach to 448 and are summed in float32."""
    model, rows = made("dense", "fp8")
    scale = np.abs(rows).max(axis=1, keepdims=True) / np.float32(448)
    rounded = (rows / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale
    np.testing.assert_allclose(model(rows), rounded @ decoded(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("recipe", FORMATS)
def test_weights_only(case: str, recipe: str) -> None:
    """The program decodes what the bundle's formula decodes; inputs stay as they are."""
    model, rows = made(case, recipe)
    expected = np.asarray(CASES[case][0]({"w": decoded(model)}, rows))
    np.testing.assert_allclose(model(rows), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("order", [1, 2])
def test_inputs_in_levels(order: int) -> None:
    """First order inputs are ± their mean size; second order adds the same of what is left."""
    model, rows = made("dense", "int8w", activations=Activations(dtype=f"levels{order}"))
    left, approximated = rows.copy(), np.zeros_like(rows)
    for _ in range(order):
        beta = np.abs(left).mean(axis=1, keepdims=True)
        part = np.where(left >= 0, beta, -beta)
        approximated, left = approximated + part, left - part
    np.testing.assert_allclose(model(rows), approximated @ decoded(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("recipe", ["int8", "int8-static", "fp8", "int4w", "kmeans4"])
@pytest.mark.parametrize("case", CASES)
def test_no_row_depends_on_another(case: str, recipe: str) -> None:
    """A row's answer is the same, bit for bit, whatever the rows beside it hold."""
    model, rows = made(case, recipe)
    before = np.asarray(model(rows))
    others = rows.copy()
    others[1:] *= 1000
    np.testing.assert_array_equal(np.asarray(model(others))[0], before[0])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("recipe", ["int8", "int8-static"])
def test_one_row_alone_is_answered_as_beside_others(case: str, recipe: str) -> None:
    """Sums of whole numbers are exact, so batches of one give the same bits too."""
    model, rows = made(case, recipe)
    together = np.asarray(model(rows))
    for index in range(2):
        np.testing.assert_array_equal(
            np.asarray(model(rows[index : index + 1]))[0], together[index]
        )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("recipe", ["int8", "int8-static", "fp8", "int8w", "int4w"])
@pytest.mark.parametrize("case", CASES)
def test_what_is_not_a_number_stays_in_its_row(case: str, recipe: str, bad: float) -> None:
    """NaN or infinity in a row makes its answer no number, and changes no other row's."""
    model, rows = made(case, recipe)
    before = np.asarray(model(rows))
    rows = rows.copy()
    rows[2].reshape(-1)[7] = bad
    found = np.asarray(model(rows))
    if recipe in ("int8", "int8-static", "fp8"):
        assert np.isnan(found[2]).all()
    else:
        assert not np.isfinite(found[2]).all()
    np.testing.assert_array_equal(np.delete(found, 2, 0), np.delete(before, 2, 0))


@pytest.mark.parametrize("recipe", ["int8", "fp8", "int8-static"])
@pytest.mark.parametrize("value", [0.0, 1e-38, 1e-45])
def test_rows_of_nothing(recipe: str, value: float) -> None:
    """A row of zeros, as padding is, or of numbers near the least is answered with about zero."""
    model, rows = made("dense", recipe)
    rows = np.full_like(rows, value)
    np.testing.assert_allclose(model(rows), 0, atol=1e-6)


def lowered_text(model: QuantizedModel, rows: Any, platform: str = "cpu") -> str:
    """The program as it is lowered."""
    parts = model.as_model()
    run = parts.bind(None)
    values = [leaf.value for leaf in parts.leaves]
    call = jax.jit(lambda values, x: run(values, {"input": x}, True))
    return call.trace(values, rows).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform", ["cpu", "tpu", "cuda"])
def test_products_are_taken_in_int8(platform: str) -> None:
    """The program multiplies s8 by s8 into s32, and holds no float weight."""
    cases = [("dense", "stablehlo.dot_general")]
    # On CPUs a convolution is made of matrix products: see convolution.py and its tests.
    cases += [("conv", "stablehlo.convolution")] if platform != "cpu" else []
    for case, word in cases:
        model, rows = made(case, "int8")
        lowered = lowered_text(model, rows, platform)
        (line,) = [line for line in lowered.splitlines() if word in line]
        types = line.rpartition(" : ")[2]
        assert types.count("xi8>") == 2, line
        assert types.endswith("xi32>"), line
        for shape in ("48x20", "20x48", "3x3x4x6"):
            assert f"{shape}xf32" not in lowered


def deep(weights: Mapping[str, Any], x: Any) -> Any:
    for name in sorted(weights):
        x = jax.nn.relu(x @ weights[name])
    return x


@pytest.mark.parametrize("recipe", ["int8", "int8w", "int4w", "kmeans4"])
def test_a_program_holds_one_decoded_weight_at_a_time(recipe: str) -> None:
    """Temporaries do not grow with the number of layers, and those of int8 hold no weight at all.

    XLA:CPU would decode all weights before the first product, and widen int8 weights to int32 where
    a transpose lies between.
    """
    weights = {f"w{i}": RNG.normal(size=(256, 256)).astype(np.float32) for i in range(8)}
    rows = RNG.normal(size=(2, 256)).astype(np.float32)
    model = quantize(deep, recipe, rows, weights=weights)
    parts = model.as_model()
    run = parts.bind(None)
    values = [leaf.value for leaf in parts.leaves]
    lowered = jax.jit(lambda values, x: run(values, {"input": x}, True)).lower(values, rows)
    stats: Any = lowered.compile().memory_analysis()
    assert stats.temp_size_in_bytes < (0.5 if recipe == "int8" else 2.5) * 4 * 256 * 256
    if recipe == "int8":
        lines = lowered.as_text().splitlines()
        assert not [line for line in lines if "stablehlo.transpose" in line and "xi8>" in line]


def test_precision_of_floats_does_not_reach_whole_numbers() -> None:
    """A product that asks for float32 in float32 is computed in int8 all the same."""

    def exact(weights: Any, x: Any) -> Any:
        return jnp.dot(x, weights["w"], precision=jax.lax.DotAlgorithmPreset.F32_F32_F32)

    model = quantize(exact, "int8", ROWS, weights=DENSE, min_size=1)
    np.testing.assert_array_equal(model(ROWS), made("dense", "int8")[0](ROWS))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_floats(dtype: str) -> None:
    """A program in a narrow float answers in it."""
    weights = {"w": jnp.asarray(DENSE["w"], dtype)}
    rows = np.asarray(jnp.asarray(ROWS, dtype))
    for recipe in ("int8", "int8w", "int4w"):
        model = quantize(dense, recipe, rows, weights=weights, min_size=1)
        found = model(rows)
        assert found.dtype == dtype
        np.testing.assert_allclose(
            np.asarray(found, np.float32), ROWS @ DENSE["w"], atol=3.5 if recipe == "int4w" else 0.6
        )


# --- lookups ---------------------------------------------------------------------------------

TABLES = ["int8w", "int4w", "int2w", "nf4", "fp8w", "kmeans4", "kmeans3", "sparse4-50"]
TABLES += ["second-order", "hashed8", "Q2.5", "int8"]


@pytest.mark.parametrize("recipe", TABLES)
def test_rows_of_a_table(recipe: str) -> None:
    """A lookup answers with the decoded rows, for ids of any shape, whatever the format."""
    ids = np.array([[3, 0, 39], [7, 7, 21]], np.int32)
    model = quantize(lookup, recipe, ids, weights=TABLE, min_size=1)
    np.testing.assert_allclose(model(ids), decoded(model)[ids], rtol=1e-6)
    if recipe == "kmeans4":
        by_channel = quantize(lookup, recipe, ids, weights=TABLE, min_size=1, granularity="channel")
        np.testing.assert_allclose(by_channel(ids), decoded(by_channel)[ids], rtol=1e-6)


@pytest.mark.parametrize("recipe", ["int8w", "int4w", "hashed8"])
@pytest.mark.parametrize("mode", ["fill", "clip", "wrap"])
def test_ids_out_of_range_are_answered_as_the_float_table_does(mode: Any, recipe: str) -> None:
    """NaN, the nearest row or the one counted around, as the program asks."""

    def apply(weights: Any, ids: Any) -> Any:
        return jnp.take(weights["w"], ids, axis=0, mode=mode)

    ids = np.array([0, 39, 40, 1000, -1, -40, -41, -1000], np.int32)
    model = quantize(apply, recipe, ids, weights=TABLE, min_size=1)
    expected = np.asarray(apply({"w": decoded(model)}, ids))
    assert np.isnan(expected).any() == (mode == "fill")
    np.testing.assert_allclose(model(ids), expected, rtol=1e-6)


def test_a_lookup_decodes_no_other_rows() -> None:
    """Rows are gathered as codes: the whole table is never there in float."""
    ids = np.array([1, 2], np.int32)
    for recipe in ("int8w", "int4w", "kmeans4", "second-order", "Q2.5"):
        model = quantize(lookup, recipe, ids, weights=TABLE, min_size=1)
        assert "40x16xf32" not in lowered_text(model, ids), recipe


def test_tied_embeddings() -> None:
    """A table that is looked up and multiplied with is one set of codes, read both ways."""

    def apply(weights: Any, ids: Any) -> Any:
        return jnp.tanh(weights["w"][ids]) @ weights["w"].T

    ids = np.array([1, 5, 9], np.int32)
    model = quantize(apply, "int8", ids, weights=TABLE, min_size=1)
    expected = apply({"w": jnp.asarray(decoded(model))}, ids)
    np.testing.assert_allclose(model(ids), expected, rtol=1e-4, atol=1e-4)


# --- what activations may be -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dtype": "int4"}, r"Activations.dtype: expected one of int8, .*, got 'int4'"),
        ({"ranges": "fixed"}, r"Activations.ranges: expected 'dynamic' or 'static', got 'fixed'"),
        ({"dtype": "levels1", "ranges": "static"}, "levels1 finds its factors row by row"),
    ],
)
def test_activations_that_there_are_not(given: dict[str, Any], message: str) -> None:
    """Refused when they are written down, not when a program is compiled."""
    with pytest.raises(ConfigError, match=message):
        Activations(**given)


def test_float8_inputs_meet_float8_weights_only() -> None:
    """A weight in another format is multiplied with inputs as they are."""
    model, rows = made("dense", "fp8", kind="integer")
    np.testing.assert_allclose(model(rows), rows @ decoded(model), rtol=1e-5, atol=1e-4)
