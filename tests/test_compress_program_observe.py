from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maas_sdk.compress.methods.ranges import histogram
from maas_sdk.compress.program.observe import Observed, observe
from maas_sdk.compress.program.traced_model import Site, TracedModel, find_sites
from maas_sdk.model.adapt import adapt

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def seen(
    fn: Any, weights: Mapping[str, Any], batches: list[np.ndarray], *, vectors: bool = True
) -> tuple[dict[str, Observed], dict[str, Site]]:
    program = TracedModel(model=adapt(fn, weights))
    sites = find_sites(program, {"input": batches[0]}, fold=False)
    found = observe(program, sites, [{"input": batch} for batch in batches], vectors=vectors)
    return found, {site.name: site for site in sites}


def check(found: Observed, vectors: np.ndarray, *, all_kept: bool = True) -> None:
    """Statistics against NumPy; ``vectors`` [N, I] is all that went into the product."""
    assert found.vectors == len(vectors)
    np.testing.assert_allclose(found.largest, np.abs(vectors).max(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.total, np.abs(vectors).sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.gram, vectors.T @ vectors, rtol=1e-4, atol=1e-3)
    assert found.sample is not None
    if all_kept:
        np.testing.assert_allclose(found.sample, vectors, rtol=1e-6)


def test_a_dense_layer() -> None:
    """Gram matrix, largest values, sums, a sample and the histogram, over batches of any size."""
    batches = [normal(5, 6), normal(3, 6)]
    found, _ = seen(lambda w, x: x @ w["w"], {"w": normal(6, 4)}, batches)
    check(found["w"], np.concatenate(batches))
    (bins,) = found["w"].histograms
    expected = histogram(batches[0]).merge(histogram(batches[1]))
    np.testing.assert_array_equal(bins.counts, expected.counts)
    assert (bins.low, bins.high, bins.rows) == (expected.low, expected.high, 8)


def test_without_vectors_only_histograms() -> None:
    """Static ranges need no Gram matrix."""
    found, _ = seen(lambda w, x: x @ w["w"], {"w": normal(6, 4)}, [normal(5, 6)], vectors=False)
    assert found["w"].gram is None
    assert len(found["w"].histograms) == 1


CONVS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "plain": ("NHWC", "HWIO", {}),
    "strides": ("NHWC", "HWIO", {"window_strides": (2, 1), "padding": "VALID"}),
    "dilation": ("NHWC", "HWIO", {"rhs_dilation": (2, 1)}),
    "other axes": ("NCHW", "OIHW", {}),
    "kernel turned": ("NHWC", "OHWI", {}),
}


@pytest.mark.parametrize("name", CONVS)
def test_patches_of_a_convolution(name: str) -> None:
    """‖XW‖² from the Gram matrix is that of the convolution: inputs are in the weight's order."""
    images, kernel, options = CONVS[name]
    sizes = {"H": 3, "W": 2, "I": 4, "O": 5, "N": 2, "C": 4}
    weight = normal(*(sizes[letter] for letter in kernel))
    shape = {"N": 2, "H": 6, "W": 7, "C": 4}
    rows = normal(*(shape[letter] for letter in images))
    options = {"window_strides": (1, 1), "padding": "SAME", **options}

    def conv(w: Any, x: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x, w["w"], dimension_numbers=(images, kernel, images), **options
        )

    found, sites = seen(conv, {"w": weight}, [rows])
    matrix = sites["w"].layout.to_matrix(weight)
    outputs = np.moveaxis(np.asarray(conv({"w": weight}, rows)), images.index("C"), -1)
    gram = outputs.reshape(-1, 5)
    np.testing.assert_allclose(
        matrix @ found["w"].gram @ matrix.T, gram.T @ gram, rtol=1e-3, atol=1e-2
    )


def test_inputs_are_in_the_order_of_the_weight() -> None:
    """A weight that is transposed and merged on its way has its inputs where they belong."""
    weights = {"w": normal(2, 3, 4)}

    def fn(w: Any, x: Any) -> Any:
        return x @ w["w"].transpose(1, 0, 2).reshape(6, 4)

    rows = normal(5, 6)
    found, sites = seen(fn, weights, [rows])
    matrix = sites["w"].layout.to_matrix(weights["w"])
    np.testing.assert_allclose(
        found["w"].sample @ matrix.T, fn(weights, rows), rtol=1e-4, atol=1e-5
    )


def test_an_einsum_over_heads() -> None:
    """Two axes that are summed over, written in another order."""
    weights, rows = {"w": normal(2, 3, 4)}, normal(5, 3, 2)

    def fn(w: Any, x: Any) -> Any:
        return jnp.einsum("bdh,hdo->bo", x, w["w"])

    found, sites = seen(fn, weights, [rows])
    matrix = sites["w"].layout.to_matrix(weights["w"])
    np.testing.assert_allclose(
        found["w"].sample @ matrix.T, fn(weights, rows), rtol=1e-4, atol=1e-5
    )


def test_layers_of_a_stack_are_seen_one_by_one() -> None:
    """Each with its own statistics, also where a layer uses its weight twice."""
    weights, rows = {"w": normal(3, 6, 6)}, normal(4, 6)

    def fn(w: Any, x: Any) -> Any:
        return jax.lax.scan(lambda x, a: (jnp.tanh(jnp.tanh(x @ a) @ a), None), x, w["w"])[0]

    found, _ = seen(fn, weights, [rows, rows])
    x = rows
    for index in range(3):
        middle = np.tanh(x @ weights["w"][index])
        both = np.concatenate([x, middle, x, middle])
        check(found["w"].layer(index), both, all_kept=False)
        assert found["w"].histograms[index].high == pytest.approx(both.max())
        x = np.tanh(middle @ weights["w"][index])


def test_a_loop_over_time_is_seen_as_one() -> None:
    """All steps of a recurrent layer together; of a stack of such, layer by layer."""
    weights, rows = {"w": normal(2, 6, 6)}, normal(5, 6)

    def layer(x: Any, matrix: Any) -> Any:
        def step(state: Any, row: Any) -> Any:
            state = jnp.tanh(row @ matrix + state)
            return state, state

        return jax.lax.scan(step, jnp.zeros(6), x)[1], None

    found, _ = seen(lambda w, x: jax.lax.scan(layer, x, w["w"])[0], weights, [rows])
    check(found["w"].layer(0), rows, all_kept=False)
    check(found["w"].layer(1), np.asarray(layer(rows, weights["w"][0])[0]), all_kept=False)


def test_uses_the_other_way_round_are_not_mixed_in() -> None:
    """Of a table that is multiplied with from both sides only those of its layout count."""
    weights, rows = {"w": normal(6, 4)}, normal(5, 6)

    def fn(w: Any, x: Any) -> Any:
        return jnp.tanh(x @ w["w"]) @ w["w"].T

    found, sites = seen(fn, weights, [rows])
    assert sites["w"].layout.in_axes == (0,)
    check(found["w"], rows)
