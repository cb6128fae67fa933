from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from maas_sdk.sharding.layout import place, place_batch, replicated
from maas_sdk.sharding.strategies import mesh_for
from maas_sdk.training.losses import cross_entropy
from maas_sdk.training.precision import Policy
from maas_sdk.training.step import make_eval_step, make_train_step, supervised, take_apart

X = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
Y = np.arange(16) % 3
BATCH = {"inputs": X, "labels": Y}
OBJECTIVE = supervised(cross_entropy())


class Normed(nnx.Module):
    """A model whose state is more than parameters."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.norm(x))


def test_a_step_on_eight_devices_is_the_step_on_one() -> None:
    """Cutting the batch over devices changes where the work is done, not what comes out."""
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    optimizer = optax.sgd(0.1)
    graphdef, state = take_apart(model, optimizer, Policy())
    step = make_train_step(graphdef, optimizer, Policy(), OBJECTIVE)
    kernel, bias = np.asarray(model.kernel[...]), np.asarray(model.bias[...])

    mesh = mesh_for("data")
    after, metrics = step(place(state, replicated(mesh)), place_batch(mesh, BATCH))

    logits = X @ kernel + bias
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    gradient = (p - np.eye(3)[Y]) / len(X)
    np.testing.assert_allclose(
        after.params["kernel"][...], kernel - 0.1 * X.T @ gradient, atol=1e-6
    )
    np.testing.assert_allclose(after.params["bias"][...], bias - 0.1 * gradient.sum(0), atol=1e-6)
    assert len(after.params["kernel"][...].sharding.device_set) == 8
    assert metrics["accuracy"].total == int((logits.argmax(-1) == Y).sum())
    np.testing.assert_allclose(metrics["loss"].total, -np.log(p[np.arange(16), Y]).sum(), rtol=1e-5)


def test_masters_stay_float32_while_the_model_computes_in_bfloat16() -> None:
    """Weights, gradients and moments are float32; only the call inside sees bfloat16."""
    seen: list[Any] = []

    class Spy(nnx.Linear):
        def __call__(self, x: jax.Array) -> jax.Array:
            seen.append((x.dtype, self.kernel[...].dtype))
            return super().__call__(x)

    policy = Policy.parse("bf16")
    optimizer = optax.adam(1e-3)
    graphdef, state = take_apart(Spy(4, 3, rngs=nnx.Rngs(0)), optimizer, policy)
    after, _ = make_train_step(graphdef, optimizer, policy, OBJECTIVE)(state, BATCH)
    assert set(seen) == {(jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.bfloat16))}
    floats = [x.dtype for x in jax.tree.leaves(after) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert set(floats) == {jnp.dtype(jnp.float32)}


def test_other_state_than_parameters_moves_on() -> None:
    """Batch statistics are taken from each batch, and are not trained."""
    optimizer = optax.sgd(0.1)
    model = Normed(nnx.Rngs(0))
    graphdef, state = take_apart(model, optimizer, Policy())
    state = place(state, replicated(mesh_for("data")))
    after, _ = make_train_step(graphdef, optimizer, Policy(), OBJECTIVE)(state, BATCH)
    np.testing.assert_allclose(after.rest["norm"]["mean"][...], 0.01 * X.mean(0), rtol=1e-4)
    np.testing.assert_array_equal(model.norm.mean[...], 0)


def test_the_state_is_donated() -> None:
    """A step writes the new state where the old one was; the old one is gone."""
    optimizer = optax.sgd(0.1)
    graphdef, state = take_apart(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), optimizer, Policy())
    state = place(state, replicated(mesh_for("data")))
    make_train_step(graphdef, optimizer, Policy(), OBJECTIVE)(state, BATCH)
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(state.params["kernel"][...])


def test_padding_counts_for_nothing() -> None:
    """Rows that are not real change neither loss nor hits, NaN in them or not."""
    graphdef, state = take_apart(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), optax.sgd(0.1), Policy())
    step = make_eval_step(graphdef, Policy(), OBJECTIVE)
    whole = step(state, {"inputs": X[:5], "labels": Y[:5]})
    padded = X.copy()
    padded[5:] = np.nan
    weights = (np.arange(16) < 5).astype(np.float32)
    part = step(state, {"inputs": padded, "labels": Y, "weights": weights})
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(part[name].total, whole[name].total, rtol=1e-6)
        assert part[name].count == whole[name].count == 5
