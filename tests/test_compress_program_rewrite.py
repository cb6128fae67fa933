from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maas_sdk.compress.program.rewrite import evaluate
from maas_sdk.compress.program.traced_weight import Known, Weight
from maas_sdk.compress.program.weight_uses import Products, Use

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


@dataclass
class Plain(Products):
    """Products as they stand, and a note of each: what it was of, and which axes it put out."""

    seen: list[tuple[str, str, tuple[int, ...]]] = field(default_factory=list)
    arrays: list[str] = field(default_factory=list)

    def array(self, weight: Weight) -> Any:
        self.arrays.append(weight.name)
        return weight.parts

    def product(self, use: Use, other: Any) -> Any:
        self.seen.append((use.weight.name, use.kind, use.out_axes))
        array = use.weight.laid_out(use.weight.parts).astype(use.weight.dtype)
        return use.bind(array, other) if use.first else use.bind(other, array)


def walked(fn: Any, weights: Mapping[str, Any], x: Any, products: Products) -> Any:
    """``fn`` with products as ``products`` has them, compiled."""
    closed = jax.make_jaxpr(fn)(dict(weights), x)

    def run(weights: Mapping[str, Any], x: Any) -> Any:
        given = [
            Weight.of(name, value, value.shape, value.dtype) if value.ndim > 1 else Known(value)
            for name, value in sorted(weights.items())
        ]
        return evaluate(closed, [*given, x], products)

    return jax.jit(run)(dict(weights), x)


W = {"w": normal(6, 8)}
X = normal(3, 6)


def dense(w: Any, x: Any) -> Any:
    return x @ w["w"]


def first(w: Any, x: Any) -> Any:
    return w["w"].T @ x.T


def transposes(w: Any, x: Any) -> Any:
    return jnp.einsum("abi,oi->abo", x.reshape(3, 1, 6), w["w"].T.T.T)


def splits(w: Any, x: Any) -> Any:
    return jnp.einsum("bi,ihd->bhd", x, w["w"].reshape(6, 2, 4))


def merges(w: Any, x: Any) -> Any:
    return x @ w["w"].reshape(2, 3, 2, 4).transpose(0, 1, 3, 2).reshape(6, 8)


def ones(w: Any, x: Any) -> Any:
    return jnp.squeeze(x[:, None, :] @ jnp.expand_dims(w["w"], 0)[0:1].squeeze(0)[None])


def mixed(w: Any, x: Any) -> Any:
    return x[:, :4] @ w["w"].reshape(4, 12)


def spread(w: Any, x: Any) -> Any:
    return x @ jnp.broadcast_to(w["w"], (3, 6, 8))


def twice(w: Any, x: Any) -> Any:
    return jnp.tanh(x @ w["w"]) @ w["w"].T


def narrowed(w: Any, x: Any) -> Any:
    return x.astype(jnp.bfloat16) @ w["w"].astype(jnp.bfloat16)


def added(w: Any, x: Any) -> Any:
    return x @ w["w"] + jnp.sum(jnp.abs(w["w"]), axis=0)


def both(w: Any, x: Any) -> Any:
    return x @ (w["w"] @ w["w"].T)


def wrapped(w: Any, x: Any) -> Any:
    inner = jax.jit(lambda w, x: jax.nn.relu(x @ w))
    return jax.checkpoint(lambda x: inner(w["w"], x) * 2)(x)


def branches(w: Any, x: Any) -> Any:
    return jax.lax.cond(x[0, 0] > 0, lambda x: x @ w["w"], lambda x: x @ (2 * w["w"]), x)


def until(w: Any, x: Any) -> Any:
    return jax.lax.while_loop(
        lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.tanh(s[1] @ w["w"] @ w["w"].T)), (0, x)
    )[1]


def looped(w: Any, x: Any) -> Any:
    def step(state: Any, row: Any) -> Any:
        state = jnp.tanh(row @ w["w"] + state)
        return state, state.sum()

    return jax.lax.scan(step, jnp.zeros(8), x, reverse=True)


LOOKUP = {"w": normal(10, 4)}


def lookup(w: Any, x: Any) -> Any:
    return jnp.take(w["w"], x, axis=0, mode="clip")


EXPERTS = {"w": normal(3, 6, 4)}


def experts(w: Any, x: Any) -> Any:
    return jnp.einsum("eni,eio->eno", x.reshape(3, 1, 6), w["w"])


STACK = {"a": normal(3, 6, 6), "b": normal(6, 6), "scale": normal(3, 6)}


def stacked(w: Any, x: Any) -> Any:
    def layer(x: Any, cut: Any) -> Any:
        matrix, scale = cut
        return jnp.tanh(x @ matrix * scale @ w["b"]), None

    return jax.lax.scan(layer, x, (w["a"], w["scale"]))[0]


# Function, weights, input, products that must be seen (name, kind, axes that are put out), and
# weights that are made arrays.
CASES: dict[str, tuple[Any, Mapping[str, Any], Any, list[Any], list[str]]] = {
    "dense": (dense, W, X, [("w", "dense", (1,))], []),
    "first operand": (first, W, X, [("w", "dense", (1,))], []),
    "transposes": (transposes, W, X, [("w", "dense", (1,))], []),
    "a reshape that splits": (splits, W, X, [("w", "dense", (1,))], []),
    # Each dimension is made of the axis that it came from; where two are mixed it is an array.
    "reshapes that split and merge": (merges, W, X, [("w", "dense", (1,))], []),
    "dimensions of one": (ones, W, X, [("w", "dense", (1,))], []),
    "a reshape that mixes": (mixed, W, X, [], ["w"]),
    "a real broadcast": (spread, W, X, [], ["w"]),
    "used twice": (twice, W, X, [("w", "dense", (1,)), ("w", "dense", (0,))], []),
    "another dtype": (narrowed, W, X, [("w", "dense", (1,))], []),
    "used elsewhere too": (added, W, X, [("w", "dense", (1,))], ["w"]),
    "a product of two weights": (both, W, X, [], ["w", "w"]),
    "inside jit and remat": (wrapped, W, X, [("w", "dense", (1,))], []),
    "cond": (branches, W, X, [], ["w"]),
    "while": (until, W, X, [], ["w"]),
    "a loop over rows": (looped, W, X, [("w", "dense", (1,))], []),
    "a lookup": (lookup, LOOKUP, np.array([[1, 2], [9, 0]]), [("w", "lookup", (0,))], []),
    "a product by batch": (experts, EXPERTS, X, [("w", "dense", (0, 2))], []),
    "stacked layers": (
        stacked,
        STACK,
        normal(2, 6),
        # "a" is [6, 6] inside the scan.
        [("a", "dense", (1,)), ("b", "dense", (1,))],
        ["scale"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_walked_program_is_the_program(name: str) -> None:
    """With products as they stand the answers are those of ``jax.jit``, bit for bit."""
    fn, weights, x, _, _ = CASES[name]
    expected = jax.tree.leaves(jax.jit(fn)(dict(weights), x))
    found = walked(fn, weights, x, Plain())
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("name", CASES)
def test_which_products_are_seen(name: str) -> None:
    """A weight is followed through layout operations to its product; the rest gets an array."""
    fn, weights, x, seen, arrays = CASES[name]
    products = Plain()
    closed = jax.make_jaxpr(fn)(dict(weights), x)

    def run(values: Any, x: Any) -> Any:
        given = [
            Weight.of(name, value, value.shape, value.dtype)
            for name, value in zip(sorted(weights), values, strict=True)
        ]
        return evaluate(closed, [*given, x], products)

    jax.eval_shape(run, [weights[name] for name in sorted(weights)], x)
    assert set(products.seen) == set(seen)
    assert set(products.arrays) == set(arrays)


CONVS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "plain": ((3, 3, 4, 8), {}),
    "strides": ((3, 3, 4, 8), {"window_strides": (2, 1), "padding": "VALID"}),
    "dilation": ((3, 3, 4, 8), {"rhs_dilation": (2, 2)}),
    "transposed": ((3, 3, 4, 8), {"lhs_dilation": (2, 2), "padding": [(1, 2), (1, 2)]}),
    "groups": ((3, 3, 2, 8), {"feature_group_count": 2}),
    "depthwise": ((3, 3, 1, 4), {"feature_group_count": 4}),
}


@pytest.mark.parametrize("order", ["NHWC", "NCHW"])
@pytest.mark.parametrize("name", CONVS)
def test_convolutions(name: str, order: str) -> None:
    """Groups, strides, dilation and either order of axes: seen, and answered bit for bit."""
    shape, options = CONVS[name]
    options = {"window_strides": (1, 1), "padding": "SAME", **options}
    weights, x = {"w": normal(*shape)}, normal(2, 7, 7, 4)
    numbers = ("NHWC", "HWIO", "NHWC")
    out = (3,)
    if order == "NCHW":
        weights, x = {"w": weights["w"].transpose(3, 2, 0, 1)}, x.transpose(0, 3, 1, 2)
        numbers, out = ("NCHW", "OIHW", "NCHW"), (0,)

    def conv(w: Any, x: Any) -> Any:
        return jax.lax.conv_general_dilated(x, w["w"], dimension_numbers=numbers, **options)

    products = Plain()
    (found,) = walked(conv, weights, x, products)
    np.testing.assert_array_equal(found, jax.jit(conv)(weights, x))
    assert products.seen == [("w", "conv", out)]


def test_a_scan_of_a_scan_cuts_layers_once() -> None:
    """Layers of a stack are shared by the loop over time inside each."""
    weights = {"a": normal(2, 6, 6)}

    def layer(x: Any, matrix: Any) -> Any:
        def step(state: Any, row: Any) -> Any:
            state = jnp.tanh(row @ matrix + state)
            return state, state

        return jax.lax.scan(step, jnp.zeros(6), x)[1], None

    def fn(w: Any, x: Any) -> Any:
        return jax.lax.scan(layer, x, w["a"])[0]

    products, x = Plain(), normal(4, 6)
    (found,) = walked(fn, weights, x, products)
    np.testing.assert_array_equal(found, jax.jit(fn)(weights, x))
    assert set(products.seen) == {("a", "dense", (1,))}
    assert products.arrays == []


# --- what follows a product ------------------------------------------------------------------


@dataclass
class Chains(Plain):
    """Notes what follows each product, as it may be folded."""

    found: list[list[str]] = field(default_factory=list)

    def chain(self, use: Use) -> int | None:
        return None

    def followed(self, use: Use, steps: Any) -> None:
        self.found.append([word for word, _ in steps])


NORM = {"w": normal(6, 8), "b": normal(8), "k": normal(8)}


def normed(w: Any, x: Any) -> Any:
    return jax.nn.relu(((x @ w["w"] + w["b"]) - 1.5) * w["k"] / 2.0)


def backwards(w: Any, x: Any) -> Any:
    return w["b"] - x @ w["w"]


def reciprocal(w: Any, x: Any) -> Any:
    return w["b"] / (x @ w["w"])


def used_twice(w: Any, x: Any) -> Any:
    product = x @ w["w"]
    return product * w["k"] + product


def residual(w: Any, x: Any) -> Any:
    return (x @ w["w"] + x.sum()) * w["k"]


def per_row(w: Any, x: Any) -> Any:
    return (x @ w["w"]) * jnp.ones((3, 1))


def through_jit(w: Any, x: Any) -> Any:
    return jax.jit(lambda y, k: y * k)(x @ w["w"], w["k"]) + w["b"]


@pytest.mark.parametrize(
    ("fn", "steps"),
    [
        (normed, [["add", "sub", "mul", "div"]]),
        (backwards, [["rsub"]]),
        (reciprocal, []),
        (used_twice, []),
        (residual, []),
        (through_jit, [["mul", "add"]]),
        (per_row, []),
    ],
)
def test_what_may_be_folded(fn: Any, steps: list[list[str]]) -> None:
    """Only operations with numbers per channel, on a result that nobody else needs."""
    products = Chains()
    found = walked(fn, NORM, X, products)
    assert products.found == steps
    np.testing.assert_array_equal(found[0], jax.jit(fn)(NORM, X))


@dataclass
class Folded(Plain):
    """Answers for the two operations behind the product itself."""

    def chain(self, use: Use) -> int:
        return 2

    def product(self, use: Use, other: Any) -> Any:
        return super().product(use, other) * NORM["k"] + NORM["b"]


def test_operations_that_a_product_answers_for_are_left_out() -> None:
    """They are passed over, so many and no more."""

    def fn(w: Any, x: Any) -> Any:
        return ((x @ w["w"]) * w["k"] + w["b"]) - 7.0

    (found,) = walked(fn, NORM, X, Folded())
    np.testing.assert_allclose(found, jax.jit(fn)(NORM, X), rtol=1e-6, atol=1e-6)


def test_a_folded_operation_that_does_not_come_is_our_mistake() -> None:
    """It is told, not answered wrongly."""
    with pytest.raises(AssertionError, match="w: a folded operation did not come"):
        walked(lambda w, x: jax.nn.relu(x @ w["w"]), NORM, X, Folded())
