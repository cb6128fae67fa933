from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maas_sdk.compress.program import blockwise as pieces
from maas_sdk.compress.program.quantized_model import QuantizedModel
from maas_sdk.compress.quantize import quantize

RNG = np.random.default_rng(0)
# 1100 outputs: no piece divides them, so the last one begins early.
OUTPUTS, INPUTS = 1100, 512
WIDE = {"w": RNG.normal(size=(INPUTS, OUTPUTS)).astype(np.float32)}
ROWS = RNG.normal(size=(3, INPUTS)).astype(np.float32)
RECIPES = ["int8w", "int4w", "nf4", "fp8w", "kmeans4", "kmeans3", "second-order"]


def dense(weights: Mapping[str, Any], x: Any) -> Any:
    return x @ weights["w"]


def heads(weights: Mapping[str, Any], x: Any) -> Any:
    """A projection to 11 heads of 100."""
    return jnp.einsum("bi,ihd->bhd", x, weights["w"])


def left(weights: Mapping[str, Any], x: Any) -> Any:
    """The weight as the first operand."""
    return jax.lax.dot_general(weights["w"], x, (((0,), (1,)), ((), ())))


def layers(weights: Mapping[str, Any], x: Any) -> Any:
    """Two layers one after the other, in a scan."""

    def layer(x: Any, w: Any) -> tuple[Any, None]:
        return x @ w / 16, None

    return jax.lax.scan(layer, x, weights["w"])[0]


HEADS = {"w": WIDE["w"].reshape(INPUTS, 11, 100)}
STACK = {"w": RNG.normal(size=(2, 600, 600)).astype(np.float32)}
CASES = {
    "dense": (dense, WIDE, ROWS),
    "heads": (heads, HEADS, ROWS),
    "left": (left, WIDE, ROWS),
    "scan": (layers, STACK, RNG.normal(size=(3, 600)).astype(np.float32)),
}


def compiled(model: QuantizedModel, x: np.ndarray) -> Any:
    """The program that the CPU runs, its weights being arguments."""
    found = model.as_model()
    run = found.bind(None)
    arrays = [jnp.asarray(leaf.value) for leaf in found.leaves]
    call = jax.jit(lambda arrays, x: run(arrays, {"input": x}, True))
    return call.lower(arrays, jnp.asarray(x)).compile()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("case", CASES)
def test_pieces_make_the_product_of_the_decoded_weight(case: str, recipe: str) -> None:
    """Whatever a weight is stored as and wherever it stands, a piecewise product is the product."""
    apply, weights, rows = CASES[case]
    model = quantize(apply, recipe, example_inputs=rows, weights=weights, min_size=1)
    expected = apply({"w": model.weights["w"].to_float()}, jnp.asarray(rows))
    found = np.asarray(model(rows))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_decoded_weight_in_memory(recipe: str) -> None:
    """What a compiled program takes besides its arguments is some pieces, not the weight."""
    weights = {"w": RNG.normal(size=(1024, 4096)).astype(np.float32)}
    x = RNG.normal(size=(1, 1024)).astype(np.float32)
    model = quantize(dense, recipe, example_inputs=x, weights=weights)
    taken = compiled(model, x).memory_analysis().temp_size_in_bytes
    # Of float8 XLA:CPU copies the codes once, to read them as bytes.
    copied = weights["w"].nbytes // 4 if recipe == "fp8w" else 0
    assert taken < copied + weights["w"].nbytes / 3


@pytest.mark.parametrize("case", ["dense", "heads"])
def test_what_cannot_be_cut_waits_for_its_input(case: str) -> None:
    """Weights without rows of their own are decoded whole, one after another."""
    apply, weights, rows = CASES[case]

    def deep(weights: Mapping[str, Any], x: Any) -> Any:
        for name in sorted(weights):
            y = apply({"w": weights[name]}, x)
            x = x + y.reshape(len(x), -1)[:, :INPUTS]
        return x

    many = {f"w{index}": weights["w"] + index for index in range(8)}
    model = quantize(deep, "sparse4-50", example_inputs=rows, weights=many, min_size=1)
    one = weights["w"].nbytes
    taken = compiled(model, rows).memory_analysis().temp_size_in_bytes
    # The codes that are spread over the zeros are whole numbers of four bytes, as are their places.
    assert one < taken < 5 * one
    expected = deep({name: w.to_float() for name, w in model.weights.items()}, jnp.asarray(rows))
    found = np.asarray(model(rows))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_rows_that_share_bytes_are_no_rows() -> None:
    """Codes packed along the rows, and positions counted over all of a tensor, stay whole."""
    for recipe, by_row in [("int4w", True), ("sparse4-50", False), ("hashed8", False)]:
        model = quantize(dense, recipe, example_inputs=ROWS, weights=WIDE, min_size=1)
        plan, stored = model.weights["w"].plan, model.weights["w"].stored
        count = plan.encodings["w"].shape[0]
        found = pieces.rows_of(plan.encodings, stored.tensors, count)
        assert (found is not None) is by_row, recipe
