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
from maas_sdk.training.step import (
    create_train_state,
    make_eval_step,
    make_train_step,
    mean_of,
    supervised,
)

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


def test_weightless_values_count_for_nothing() -> None:
    """NaN is left out of the mean, and sent a gradient of 0; what made it may multiply that up."""
    values, weights = jnp.array([1.0, jnp.nan, 3.0]), jnp.array([1.0, 0.0, 1.0])

    def mean(values: jax.Array) -> jax.Array:
        return mean_of(values, weights).value

    assert mean(values) == 2
    np.testing.assert_array_equal(jax.grad(mean)(values), [0.5, 0, 0.5])
    # What the docstring warns of: the root has no slope at 0.
    slopes = jax.grad(lambda x: mean(jnp.sqrt(x)))(jnp.array([1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(slopes, [0.25, np.nan, 0.25])


def test_a_step_on_eight_devices_is_the_step_on_one() -> None:
    """Cutting the batch over devices changes where the work is done, not what comes out."""
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    optimizer = optax.sgd(0.1)
    graphdef, state = create_train_state(model, optimizer, Policy())
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
        def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
            seen.append((inputs.dtype, self.kernel[...].dtype))
            return super().__call__(inputs, out_sharding)

    policy = Policy.parse("bf16")
    optimizer = optax.adam(1e-3)
    graphdef, state = create_train_state(Spy(4, 3, rngs=nnx.Rngs(0)), optimizer, policy)
    after, _ = make_train_step(graphdef, optimizer, policy, OBJECTIVE)(state, BATCH)
    assert set(seen) == {(jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.bfloat16))}
    floats = [x.dtype for x in jax.tree.leaves(after) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert set(floats) == {jnp.dtype(jnp.float32)}


def test_other_state_than_parameters_moves_on() -> None:
    """Batch statistics are taken from each batch, and are not trained."""
    optimizer = optax.sgd(0.1)
    model = Normed(nnx.Rngs(0))
    graphdef, state = create_train_state(model, optimizer, Policy())
    state = place(state, replicated(mesh_for("data")))
    after, _ = make_train_step(graphdef, optimizer, Policy(), OBJECTIVE)(state, BATCH)
    np.testing.assert_allclose(after.rest["norm"]["mean"][...], 0.01 * X.mean(0), rtol=1e-4)
    np.testing.assert_array_equal(model.norm.mean[...], 0)


def test_the_state_is_donated() -> None:
    """A step writes the new state where the old one was; the old one is gone."""
    optimizer = optax.sgd(0.1)
    graphdef, state = create_train_state(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), optimizer, Policy())
    state = place(state, replicated(mesh_for("data")))
    make_train_step(graphdef, optimizer, Policy(), OBJECTIVE)(state, BATCH)
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(state.params["kernel"][...])


def test_padding_counts_for_nothing() -> None:
    """Rows that are not real change neither loss nor hits, NaN in them or not."""
    graphdef, state = create_train_state(
        nnx.Linear(4, 3, rngs=nnx.Rngs(0)), optax.sgd(0.1), Policy()
    )
    step = make_eval_step(graphdef, Policy(), OBJECTIVE)
    whole = step(state, {"inputs": X[:5], "labels": Y[:5]})
    padded = X.copy()
    padded[5:] = np.nan
    weights = (np.arange(16) < 5).astype(np.float32)
    part = step(state, {"inputs": padded, "labels": Y, "weights": weights})
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(part[name].total, whole[name].total, rtol=1e-6)
        assert part[name].count == whole[name].count == 5


def broken(at: float = np.nan) -> dict[str, Any]:
    return {"inputs": np.where(np.arange(16)[:, None] == 3, at, X), "labels": Y}


def stepped(skip: int | None, batches: list[dict[str, Any]], **more: Any) -> list[Any]:
    """States after each batch, of a model with batch statistics under Adam."""
    optimizer = optax.adam(0.1)
    graphdef, state = create_train_state(Normed(nnx.Rngs(0)), optimizer, Policy(), **more)
    step = make_train_step(
        graphdef, optimizer, Policy(), OBJECTIVE, skip_nonfinite=skip, ema_decay=0.5
    )
    found = []
    for batch in batches:
        state, metrics = step(state, batch)
        found.append((jax.tree.map(np.asarray, state), float(metrics["nonfinite"].total)))
    return found


def same(one: Any, other: Any) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_a_step_that_is_not_finite_is_as_if_it_had_not_been() -> None:
    """Weights, moments, statistics and average after good, bad, good are those of good, good."""
    (first, _), (bad, flag), (last, _) = stepped(2, [BATCH, broken(), BATCH], ema=True)
    *_, (expected, _) = stepped(2, [BATCH, BATCH], ema=True)
    assert flag == 1
    for name in ("params", "opt_state", "rest", "ema"):
        assert same(getattr(bad, name), getattr(first, name)), name
        assert same(getattr(last, name), getattr(expected, name)), name
    assert (int(last.step), int(last.skipped), int(bad.bad), int(last.bad)) == (3, 1, 1, 0)


def test_one_bad_step_too_many_and_all_stands_still() -> None:
    """The weights that broke, and the count of steps, stay for whoever comes to look."""
    states = stepped(1, [BATCH, broken(), broken(), BATCH, BATCH])
    assert [int(state.step) for state, _ in states] == [1, 2, 2, 2, 2]
    for state, _ in states[1:]:
        assert same(state.params, states[0][0].params)
        assert same(state.rest, states[0][0].rest)
    unguarded = stepped(None, [broken()])
    assert np.isnan(unguarded[0][0].params["head"]["kernel"][...]).all()


def test_an_average_of_the_weights_is_kept_and_judged() -> None:
    """Half of it is replaced at each update (less at first); evaluation is of the average."""
    optimizer = optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation()
    graphdef, state = create_train_state(
        nnx.Linear(4, 3, rngs=nnx.Rngs(0)), optimizer, Policy(), ema=True
    )
    begin = np.asarray(state.params["kernel"][...])
    step = make_train_step(
        graphdef, optimizer, Policy(), OBJECTIVE, ema_decay=0.5, schedule=lambda n: 0.1 * (n + 1)
    )
    state, first = step(state, BATCH)
    np.testing.assert_array_equal(state.ema["kernel"][...], begin)  # only accumulated so far
    state, second = step(state, BATCH)
    moved = np.asarray(state.params["kernel"][...])
    # The ramp of the decay: (1 + 0) / (10 + 0) at the first update.
    np.testing.assert_allclose(state.ema["kernel"][...], 0.1 * begin + 0.9 * moved, rtol=1e-5)
    assert float(first["learning_rate"].value) == float(second["learning_rate"].value)
    evaluated = make_eval_step(graphdef, Policy(), OBJECTIVE)(state, BATCH)
    logits = X @ np.asarray(state.ema["kernel"][...]) + np.asarray(state.ema["bias"][...])
    assert float(evaluated["accuracy"].total) == float((logits.argmax(-1) == Y).sum())


def test_what_a_module_keeps_for_the_objective_is_no_state() -> None:
    """An intermediate may be read by the objective, and does not change the state's structure."""

    class Telling(nnx.Linear):
        def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
            self.seen = nnx.Intermediate(inputs.mean())
            return super().__call__(inputs, out_sharding)

    graphdef, state = create_train_state(Telling(4, 3, rngs=nnx.Rngs(0)), optax.sgd(0.1), Policy())
    structure = jax.tree.structure(state)
    after, _ = make_train_step(graphdef, optax.sgd(0.1), Policy(), OBJECTIVE)(state, BATCH)
    assert jax.tree.structure(after) == structure
