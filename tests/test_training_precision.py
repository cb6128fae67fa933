from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from maas_sdk.errors import ConfigError
from maas_sdk.training.losses import cross_entropy
from maas_sdk.training.precision import QUANTIZED, Policy, keep_compute_dtype

FULL = Policy()
MIXED = Policy(compute="bfloat16")
INT8 = Policy(quantized="int8")
INT8_MIXED = Policy(compute="bfloat16", quantized="int8")


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("f32", FULL),
        ("bf16", MIXED),
        ("bfloat16", MIXED),
        ("params=float32,compute=bfloat16,output=float32", MIXED),
        ("p=f32,c=bf16", MIXED),
        (" c = bf16 , o = f16 ", Policy(compute="bfloat16", output="float16")),
        ("int8", INT8),
        ("fp8_full", Policy(quantized="fp8_full")),
        ("int8,compute=bfloat16", INT8_MIXED),
        ("int8, bf16", INT8_MIXED),
        ("q=int8,c=bf16", INT8_MIXED),
    ],
)
def test_the_grammar(text: str, policy: Policy) -> None:
    """Short and long spellings are one policy, and its own spelling reads back as itself."""
    assert Policy.parse(text) == policy
    assert Policy.parse(str(policy)) == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown dtype compute=''"),
        ("int4", "unknown dtype compute='int4'; known are bf16.*products with weights fp8, fp8_f"),
        ("q=int4", "unknown format quantized='int4'; known are fp8, fp8_full, int8, int8_full"),
        ("int8,q=fp8", "quantized is given twice"),
        ("c=int8", "unknown dtype compute='int8'"),
        (
            "weights=f32",
            "unknown field 'weights'; expected params=, compute=, output= or quantized=",
        ),
        ("c=bf16,compute=f32", "compute is given twice"),
        ("bf16,f32", "compute is given twice"),
        ("c=", "unknown dtype compute=''"),
    ],
)
def test_what_is_not_a_policy_is_refused(text: str, message: str) -> None:
    """The message names the field and what it may be."""
    with pytest.raises(ConfigError, match=message):
        Policy.parse(text)


def test_every_format_is_explained() -> None:
    """Each name of a quantized format says what is computed in it."""
    assert all(meaning for meaning in QUANTIZED.values())


def test_only_floats_are_cast() -> None:
    """Integers and random keys pass as they are; floats of any width are cast."""
    tree = {"w": jnp.ones(2), "n": jnp.arange(2), "key": jax.random.key(0)}
    cast = MIXED.cast_compute(tree)
    assert cast["w"].dtype == jnp.bfloat16
    assert cast["n"].dtype == tree["n"].dtype
    assert cast["key"].dtype == tree["key"].dtype
    assert MIXED.cast_params(cast)["w"].dtype == jnp.float32
    assert MIXED.cast_output(cast)["w"].dtype == jnp.float32


class Everything(nnx.Module):
    """Each norm of Flax, attention, and layers between them."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.batch = nnx.BatchNorm(16, rngs=rngs)
        self.first = nnx.Linear(16, 16, rngs=rngs)
        self.layer = nnx.LayerNorm(16, rngs=rngs)
        self.root = nnx.RMSNorm(16, rngs=rngs)
        self.group = nnx.GroupNorm(16, num_groups=4, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 16, decode=False, rngs=rngs)
        self.head = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.first(self.batch(x))
        x = self.group(self.root(self.layer(x)))
        return self.head(x + self.attention(x)).mean(axis=1)


# [B 32, T 8, D 16]
X = np.random.default_rng(0).normal(size=(32, 8, 16)).astype(np.float32)
Y = np.arange(32) % 3


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation, those of inner functions included."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def loss_of(model: nnx.Module, policy: Policy) -> tuple[Any, Any]:
    """A function of the masters that gives the loss and the other state, and the masters."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params: Any) -> tuple[jax.Array, Any]:
        called: Any = nnx.merge(graphdef, policy.cast_compute(params), rest, copy=True)
        outputs = policy.cast_output(called(policy.cast_compute(jnp.asarray(X))))
        return cross_entropy()(outputs, Y).mean(), nnx.state(called, nnx.Not(nnx.Param))

    return loss, params


def narrow(jaxpr: Any, *names: str) -> list[str]:
    """Primitives of these names that have a 16-bit float operand, and where they come from."""
    return [
        f"{equation.primitive.name} {equation.invars[0].aval} {equation.source_info.name_stack}"
        for equation in equations(jaxpr)
        if equation.primitive.name in names
        and any(v.aval.dtype in (jnp.bfloat16, jnp.float16) for v in equation.invars)
    ]


# Sums over an axis, and what a softmax, a logarithm of one and a norm are made of.
SENSITIVE = ("reduce_sum", "reduce_max", "cumsum", "exp", "log", "rsqrt", "sqrt", "div")


def test_norms_softmax_and_loss_are_float32_under_bf16() -> None:
    """The traced loss has products in bfloat16, but no sum, exponential or root in it."""
    loss, params = loss_of(keep_compute_dtype(Everything(nnx.Rngs(0))), MIXED)
    jaxpr = jax.make_jaxpr(loss)(params).jaxpr
    found = {e.primitive.name for e in equations(jaxpr)}
    assert {"reduce_sum", "reduce_max", "exp", "log", "rsqrt"} <= found
    # The one division is the attention's, of a query by the root of its width.
    assert [e for e in narrow(jaxpr, *SENSITIVE) if "[32,8,2,8]" not in e] == []
    products = [
        [v.aval.dtype for v in e.invars]
        for e in equations(jaxpr)
        if e.primitive.name == "dot_general"
    ]
    assert len(products) == 8
    assert all(dtypes == [jnp.bfloat16] * 2 for dtypes in products)


def test_sums_of_gradients_are_accumulated_in_float32() -> None:
    """A bias sums its gradient over the batch in bfloat16; what XLA makes of it adds in float32.

    The same of the largest batch by numbers: in bfloat16 itself 256 + 1 is 256.
    """
    loss, params = loss_of(keep_compute_dtype(Everything(nnx.Rngs(0))), MIXED)
    gradient = jax.jit(jax.grad(lambda p: loss(p)[0]))
    traced = narrow(jax.make_jaxpr(gradient)(params).jaxpr, "reduce_sum", "exp", "log", "rsqrt")
    assert traced
    assert all("reduce_sum" in one and "transpose" in one for one in traced)
    compiled = gradient.lower(params).compile().as_text()
    assert " bf16[] add(" not in compiled

    @jax.jit
    def gradient_of_bias(cotangent: jax.Array) -> jax.Array:
        zero = jnp.zeros((3,), jnp.bfloat16)
        return jax.vjp(lambda bias: jnp.zeros_like(cotangent) + bias, zero)[1](cotangent)[0]

    ones = jnp.ones((4096, 3), jnp.bfloat16)
    np.testing.assert_array_equal(gradient_of_bias(ones).astype(np.float32), [4096.0] * 3)


def test_gradients_and_moments_are_in_the_masters_dtype() -> None:
    """The cast inside the loss makes its gradient float32 again, before any optimizer sees it."""
    loss, params = loss_of(keep_compute_dtype(Everything(nnx.Rngs(0))), MIXED)
    (value, rest), gradients = jax.eval_shape(jax.value_and_grad(loss, has_aux=True), params)
    state = jax.eval_shape(optax.adamw(1e-3).init, params)
    assert value.dtype == jnp.float32
    floats = [
        leaf.dtype
        for leaf in jax.tree.leaves((gradients, rest, state))
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    assert set(floats) == {jnp.dtype(jnp.float32)}


def test_a_batch_norm_keeps_the_compute_dtype() -> None:
    """As Flax has it, its float32 statistics make float32 of all that follows; kept, they do not.

    Statistics are the same to the last bit, the outputs are rounded to bfloat16, and the model that
    was handed over still is what it was.
    """
    norm = nnx.BatchNorm(16, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    inputs = jnp.asarray(X, jnp.bfloat16)
    kept = keep_compute_dtype(norm)
    plain, narrowed = nnx.clone(norm), nnx.clone(kept)
    for model in (plain, narrowed):
        model.set_attributes(use_running_average=False)
    wide, output = plain(inputs), narrowed(inputs)
    assert (wide.dtype, output.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_array_equal(output, wide.astype(jnp.bfloat16))
    for name in ("mean", "var"):
        found = getattr(narrowed, name)[...]
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, getattr(plain, name)[...])
    assert norm.promote_dtype is not kept.promote_dtype
    # With running statistics too, as in evaluation.
    narrowed.set_attributes(use_running_average=True)
    assert narrowed(inputs).dtype == jnp.bfloat16


def test_float32_in_float32_out() -> None:
    """Where nothing is narrow, the kept model is the plain one, bit for bit."""
    model = Everything(nnx.Rngs(0))
    loss, params = loss_of(model, FULL)
    kept, same_params = loss_of(keep_compute_dtype(model), FULL)
    assert jax.tree.structure(params) == jax.tree.structure(same_params)
    assert float(loss(params)[0]) == float(kept(same_params)[0])
