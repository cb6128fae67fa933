from __future__ import annotations

import re
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from maas_sdk.errors import ConfigError
from maas_sdk.training.losses import cross_entropy
from maas_sdk.training.precision import QUANTIZED, Policy
from maas_sdk.training.qtraining import RULES, prepare, quantize_calls

# [B, height, width, channels]; B = width of the dense layers, on purpose.
X = np.random.default_rng(0).random((16, 8, 8, 1), dtype=np.float32)
Y = np.arange(16) % 10
# With whether the step is run too: compiling takes its time, and
# ``test_training_parity_comparison`` trains with each of them.
POLICIES = {
    "int8": False,
    "int8_full": False,
    "fp8": False,
    "fp8_full": True,
    "int8,compute=bfloat16": True,
}


class Everything(nnx.Module):
    """A convolution, dense layers, a norm with state, attention, and a product of its own."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.wide = nnx.Linear(256, 16, rngs=rngs)
        self.square = nnx.Linear(16, 16, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 16, decode=False, rngs=rngs)
        self.own = nnx.Param(0.3 * jax.random.normal(rngs.params(), (16, 16)))
        self.head = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.stem(x))).reshape(x.shape[0], -1)
        x = nnx.relu(self.square(nnx.relu(self.wide(x))))
        x = x + self.attention(x[:, None])[:, 0]
        return self.head(x @ self.own[...])


def gradient_of(model: nnx.Module, policy: Policy) -> tuple[Any, Any]:
    """A jitted function: masters → ((loss, other state), gradients); and the masters."""
    graphdef, params, rest = nnx.split(prepare(model, policy), nnx.Param, ...)

    def loss(params: Any) -> tuple[jax.Array, Any]:
        called: Any = nnx.merge(graphdef, policy.cast_compute(params), rest, copy=True)
        outputs = policy.cast_output(called(policy.cast_compute(jnp.asarray(X))))
        return cross_entropy()(outputs, Y).mean(), nnx.state(called, nnx.Not(nnx.Param))

    return jax.jit(jax.value_and_grad(loss, has_aux=True)), params


@cache
def plain_step() -> Any:
    """What the same model gives in float32."""
    step, params = gradient_of(Everything(nnx.Rngs(0)), Policy())
    return step(params)


def products(text: str, dtype: str) -> int:
    """Products in lowered text that take two operands of a dtype."""
    return len(re.findall(rf"(?:dot_general|convolution)\b.*x{dtype}>, \S*x{dtype}>\)", text))


def test_every_format_has_its_rules() -> None:
    """What the grammar of policies names, this file can do."""
    assert set(RULES) == set(QUANTIZED)


@pytest.mark.parametrize("text", POLICIES)
def test_products_with_weights_are_quantized(text: str) -> None:
    """The nine layers' products are in the format, the attention's own two are not.

    Masters, gradients and batch statistics are float32, and the loss stays near the plain one.
    """
    policy = Policy.parse(text)
    model = Everything(nnx.Rngs(0))
    step, params = gradient_of(model, policy)
    lowered = step.lower(params).as_text()
    integer = policy.quantized.startswith("int8")
    narrow = products(lowered, "i8" if integer else "f8E4M3FN")
    backward = {"int8_full": 18 - 1, "fp8_full": 0}.get(policy.quantized, 0)
    assert narrow == 9 + backward
    if policy.quantized == "fp8_full":
        # Of the eight dense layers' gradients; XLA multiplies e5m2 by e4m3.
        mixed = re.findall(
            r"dot_general\b.*(?:f8E5M2>, \S*f8E4M3FN>\)|f8E4M3FN>, \S*E5M2>\))", lowered
        )
        assert len(mixed) == 16
    if not POLICIES[text]:
        return
    (loss, rest), gradients = step(params)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves((gradients, rest))} == {"float32"}
    (plain_loss, plain_rest), plain = plain_step()
    np.testing.assert_allclose(loss, plain_loss, atol=0.02 if integer else 0.06)
    assert float(loss) != float(plain_loss)
    cosine = optax.tree.vdot(gradients, plain) / (
        optax.tree.norm(gradients) * optax.tree.norm(plain)
    )
    # Rounded by half a step of 1/127, and by 1/16 of each value in e4m3.
    assert cosine > (0.98 if integer else 0.9)
    assert jax.tree.structure(rest) == jax.tree.structure(plain_rest)


def test_int8_against_numpy() -> None:
    """One dense layer: scales per row and per output channel, int32 sums, straight-through."""
    # Quarters of a step, so that most are rounded, and a largest value that makes steps of 1/64:
    # the division by the scale is exact, and nothing hangs on its last bit.
    random = np.random.default_rng(1)
    x = (random.integers(-400, 400, size=(16, 16)) / 256).astype(np.float32)
    w = (random.integers(-400, 400, size=(16, 4)) / 256).astype(np.float32)
    x[:, 3], w[5, :] = 127.5 / 64, 127.5 / 64
    layer = nnx.Linear(16, 4, use_bias=False, rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.asarray(w)
    rounded = [np.clip(np.round(values * 64), -128, 127) for values in (x, w)]
    assert np.abs(rounded[0] / 64 - x).max() > 0
    quantized: Any = quantize_calls(layer, "int8")
    np.testing.assert_allclose(
        quantized(jnp.asarray(x)), rounded[0] @ rounded[1] / 64**2, rtol=1e-6
    )
    cotangent = np.random.default_rng(2).normal(size=(16, 4)).astype(np.float32)
    graphdef, state = nnx.split(quantized)
    _, vjp = jax.vjp(lambda state, x: nnx.merge(graphdef, state)(x), state, jnp.asarray(x))
    for_weights, for_inputs = vjp(jnp.asarray(cotangent))
    # As if there were no rounding.
    np.testing.assert_allclose(for_weights["kernel"][...], x.T @ cotangent, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(for_inputs, cotangent @ w.T, rtol=1e-5, atol=1e-5)


def test_fp8_on_this_machine_is_fp8_in_numbers() -> None:
    """Without fp8 arithmetic XLA multiplies the rounded values in a wider dtype: same numbers."""
    layer = nnx.Linear(8, 4, use_bias=False, rngs=nnx.Rngs(0))
    x = np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)
    w = np.asarray(layer.kernel[...])
    largest = float(jnp.finfo(jnp.float8_e4m3fn).max)
    scale_x = np.abs(x).max(1, keepdims=True) / largest
    scale_w = np.abs(w).max(0, keepdims=True) / largest
    rounded_x = (x / scale_x).astype(jnp.float8_e4m3fn).astype(np.float32)
    rounded_w = (w / scale_w).astype(jnp.float8_e4m3fn).astype(np.float32)
    quantized: Any = quantize_calls(layer, "fp8")
    np.testing.assert_allclose(
        jax.jit(quantized)(jnp.asarray(x)),
        (rounded_x @ rounded_w) * scale_x * scale_w,
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_quantized_model_fits_the_plain_ones_state() -> None:
    """Weights go from one to the other and back; the model that was handed over is untouched."""
    model = Everything(nnx.Rngs(0))
    before = model(jnp.asarray(X))
    quantized = prepare(model, Policy.parse("int8"))
    assert type(quantized).__name__ == "Everything"
    assert isinstance(quantized, Everything)
    states = [nnx.state(one) for one in (model, quantized)]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    model.norm.mean[...], model.norm.var[...] = jnp.zeros(4), jnp.ones(4)
    np.testing.assert_array_equal(model(jnp.asarray(X)), before)


@pytest.mark.parametrize("first", ["plain", "quantized"])
def test_what_was_traced_before_does_not_leak(first: str) -> None:
    """``x @ w`` is kept by jax once traced; neither numerics is answered with the other's."""

    class Product(nnx.Module):
        def __init__(self, width: int) -> None:
            self.w = nnx.Param(jax.random.normal(jax.random.key(0), (width, 7)))

        def __call__(self, x: jax.Array) -> jax.Array:
            return x @ self.w[...]

    # A width that no other test has, so that nothing was kept before.
    width = {"plain": 37, "quantized": 38}[first]
    model = Product(width)
    calls: dict[str, Any] = {"plain": model, "quantized": quantize_calls(model, "int8")}
    x = jax.random.normal(jax.random.key(1), (5, width))
    exact = np.asarray(x, np.float64) @ np.asarray(model.w[...], np.float64)
    for name in sorted(calls, reverse=first == "quantized"):
        graphdef, state = nnx.split(calls[name])
        error = np.abs(jax.jit(lambda s, g=graphdef: nnx.merge(g, s)(x))(state) - exact).max()
        assert (error < 1e-4) == (name == "plain"), (name, error)


def test_some_layers_can_stay_plain() -> None:
    """``paths`` names the layers that are quantized."""
    model = Everything(nnx.Rngs(0))
    some = quantize_calls(model, "int8", paths="wide|attention/.*")
    graphdef, state = nnx.split(some)
    text = jax.jit(lambda s: nnx.merge(graphdef, s)(jnp.asarray(X))).lower(state).as_text()
    assert products(text, "i8") == 1 + 4


def test_scanned_and_rematerialized_blocks_are_quantized() -> None:
    """Inside ``nnx.remat`` and under ``nnx.scan`` products are in int8 too, backward included."""

    class Block(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.inner = nnx.Linear(16, 16, rngs=rngs)

        @nnx.remat
        def __call__(self, x: jax.Array) -> jax.Array:
            return x + nnx.tanh(self.inner(x))

    class Stack(nnx.Module):
        def __init__(self) -> None:
            @nnx.split_rngs(splits=3)
            @nnx.vmap(in_axes=(0,), out_axes=0)
            def make(rngs: nnx.Rngs) -> Block:
                return Block(rngs)

            self.blocks = make(nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            def through(x: jax.Array, block: Block) -> jax.Array:
                return block(x)

            return through(x, self.blocks)

    model = Stack()
    quantized = quantize_calls(model, "int8_full")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16)), jnp.float32)

    def loss(state: Any, graphdef: Any) -> jax.Array:
        return (nnx.merge(graphdef, state)(x) ** 2).mean()

    graphdef, state = nnx.split(quantized)
    text = jax.jit(jax.grad(loss), static_argnums=1).lower(state, graphdef).as_text()
    # Forward, forward again in the backward pass, and two gradients; the loop's body counts once.
    assert products(text, "i8") >= 3
    run = jax.jit(jax.grad(loss), static_argnums=1)
    gradient, plain = run(state, graphdef), run(state, nnx.split(model)[0])
    for found, exact in zip(jax.tree.leaves(gradient), jax.tree.leaves(plain), strict=True):
        assert float(jnp.abs(found - exact).max()) < 0.1 * float(jnp.abs(exact).max())


def test_wrong_names_are_refused() -> None:
    """The message says which are known, or what is wrong with the expression."""
    with pytest.raises(ConfigError, match="unknown format 'int3'; known are fp8, fp8_full, int8"):
        quantize_calls(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), "int3")
    with pytest.raises(ConfigError, match=r"paths '\(': missing \)"):
        quantize_calls(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), "int8", paths="(")
