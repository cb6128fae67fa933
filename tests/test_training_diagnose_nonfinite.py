from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from maas_sdk.training.diagnose.nonfinite import Origin, find_origin, nonfinite_error
from maas_sdk.training.losses import LossFn, cross_entropy
from maas_sdk.training.precision import Policy
from maas_sdk.training.step import create_train_state, supervised

BATCH = {"inputs": np.ones((16, 4), np.float32), "labels": np.zeros(16, np.int32)}


class Log(nnx.Module):
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.log(x)


class Deep(nnx.Module):
    """A logarithm of what may be negative, two levels down, and a layer after it."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(4, 8, rngs=rngs)
        self.trunk = nnx.Sequential(nnx.Linear(8, 8, rngs=rngs), Log())
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.trunk(self.first(x)))


class Rooted(nnx.Module):
    """√0: the value is fine, the slope is not."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(4, 8, rngs=rngs)
        self.last = nnx.Linear(8, 3, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.sqrt(self.last(self.first(x)))


def origin(
    model: nnx.Module, loss_fn: LossFn | None = None, policy: str = "f32", **batch: Any
) -> Origin:
    graphdef, state = create_train_state(model, optax.sgd(0.1), Policy())
    return find_origin(
        graphdef,
        state,
        {**BATCH, **batch},
        Policy.parse(policy),
        supervised(loss_fn or cross_entropy()),
    )


@pytest.mark.parametrize("policy", ["f32", "bf16"])
def test_the_innermost_first_layer_is_named(policy: str) -> None:
    """Not the layers around it, and not those that only pass it on; in the step's precision."""
    found = origin(Deep(nnx.Rngs(0)), policy=policy)
    assert (found.kind, found.path, found.type, found.value) == (
        *("layer", "trunk/layers/1", "Log", "NaN"),
    )
    assert str(found).startswith("layer trunk/layers/1 (Log), the first whose output has NaN")


def test_what_is_computed_between_layers_is_told_by_the_next_one() -> None:
    """The layer whose inputs are not finite is named as what comes after."""

    class Between(Deep):
        def __call__(self, x: jax.Array) -> jax.Array:
            return self.head(jnp.log(self.first(x)))

    found = origin(Between(nnx.Rngs(0)))
    assert (found.kind, found.path) == ("between", "head")
    assert "look at the lines before its call" in str(found)


def test_rows_and_weights_come_before_layers() -> None:
    """An infinite input is the batch's fault, a NaN weight the weight's."""
    inputs = BATCH["inputs"].copy()
    inputs[3, 2] = np.inf
    found = origin(Deep(nnx.Rngs(0)), inputs=inputs)
    assert (found.kind, found.path, found.value) == ("batch", "inputs", "infinity")
    assert found.share == pytest.approx(1 / 64)
    model = Deep(nnx.Rngs(0))
    model.head.bias[...] = jnp.asarray([0.0, jnp.nan, 0.0])
    found = origin(model)
    assert (found.kind, found.path, found.value) == ("weight", "head/bias", "NaN")


def test_a_loss_and_a_gradient_can_break_alone() -> None:
    """With finite outputs; of gradients the one nearest to the loss is named."""
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    assert origin(model, lambda outputs, labels: outputs[:, 0] / 0).kind == "loss"
    found = origin(Rooted(nnx.Rngs(0)), lambda outputs, labels: outputs[:, 0])
    assert (found.kind, found.path.partition("/")[0]) == ("gradient", "last")
    assert "as of a square root at 0" in str(found)


def test_what_was_rounding_is_said_to_be() -> None:
    """Nothing is blamed where nothing is found; the remedy fits."""
    found = origin(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
    assert found == Origin(kind="nothing")
    assert "lower the learning rate" in str(nonfinite_error(7, found))


def test_the_model_is_left_as_it_was() -> None:
    """Listening is over when the step has been looked at."""
    model = Deep(nnx.Rngs(0))
    origin(model)
    kinds = {type(module).__name__ for _, module in nnx.iter_modules(model)}
    assert kinds == {"Deep", "Log", "Linear", "Sequential", "List"}
