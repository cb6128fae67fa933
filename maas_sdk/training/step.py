"""One training step and one evaluation step, as pure functions of a state.

The rule it keeps: the module is taken apart once (``nnx.split``) and the step works on arrays
alone, ``(state, inputs, labels) → (state, metrics)``, compiled by ``jax.jit`` with the state
donated. It is written for the whole batch; where the arrays lie (``sharding``) decides how many
devices work on it.

Dimension letters: B rows of a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.typing import ArrayLike

from maas_sdk.errors import ConfigError
from maas_sdk.training.precision import Policy

__all__ = [
    "EvalStep",
    "LossFn",
    "Metrics",
    "TrainState",
    "TrainStep",
    "cross_entropy",
    "make_eval_step",
    "make_train_step",
    "take_apart",
]

# (outputs [B, …], labels [B]) → loss of each row, float32[B]
LossFn = Callable[[jax.Array, jax.Array], jax.Array]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "rest", "opt_state"],
    meta_fields=[],
)
@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Everything that a step changes."""

    # Master weights, in the policy's ``params`` dtype.
    params: nnx.State[Any, Any]
    # The module's other variables: batch statistics, counters of random streams.
    rest: nnx.State[Any, Any]
    opt_state: optax.OptState


@partial(jax.tree_util.register_dataclass, data_fields=["loss_sum", "correct"], meta_fields=[])
@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Sums over rows, so that batches add up."""

    # float32[]
    loss_sum: jax.Array
    # int32[], rows whose largest output is at their label.
    correct: jax.Array


TrainStep = Callable[[TrainState, ArrayLike, ArrayLike], tuple[TrainState, Metrics]]
EvalStep = Callable[[TrainState, ArrayLike, ArrayLike, ArrayLike], Metrics]


def cross_entropy(*, label_smoothing: float = 0.0) -> LossFn:
    """A loss: softmax cross-entropy of logits float[B, K] and labels integer[B], in float32.

    Args:
        label_smoothing: α in Szegedy et al. 2016, section 7: the target is 1 - α + α/K at the label
            and α/K elsewhere, so the model gains nothing from being ever more certain.

    Raises:
        ConfigError: α is not in 0 ≤ α < 1.
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise ConfigError(f"label_smoothing: expected 0 ≤ x < 1, got {label_smoothing}")

    def loss_fn(logits: jax.Array, labels: jax.Array) -> jax.Array:
        targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32)
        loss: jax.Array = optax.losses.softmax_cross_entropy(
            logits.astype(jnp.float32), optax.smooth_labels(targets, label_smoothing)
        )
        return loss

    return loss_fn


def take_apart(
    model: nnx.Module, optimizer: optax.GradientTransformation, policy: Policy
) -> tuple[nnx.GraphDef[Any], TrainState]:
    """The module's structure, and the state that training starts from.

    The state shares its arrays with ``model``; a step donates what it is given, so hand it a copy
    (``sharding.data_parallel.replicate`` makes one) where the model is still needed.
    """
    parts: Any = nnx.split(model, nnx.Param, ...)
    graphdef, params, rest = parts
    params = policy.cast_params(params)
    return graphdef, TrainState(params=params, rest=rest, opt_state=optimizer.init(params))


def make_train_step(
    graphdef: nnx.GraphDef[Any],
    optimizer: optax.GradientTransformation,
    policy: Policy,
    loss_fn: LossFn,
) -> TrainStep:
    """Compile-ready ``(state, inputs [B, …], labels [B]) → (state, metrics)``.

    The given state is donated: its buffers become the new state's, and it must not be used again.
    """

    def mean_loss(
        params: nnx.State[Any, Any], rest: nnx.State[Any, Any], inputs: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, tuple[Metrics, nnx.State[Any, Any]]]:
        # Casting inside the differentiated function gives gradients in the masters' dtype.
        # Copies: a module may only write to variables that were made inside this function.
        model: Any = nnx.merge(graphdef, policy.cast_compute(params), rest, copy=True)
        outputs = policy.cast_output(model(policy.cast_compute(inputs)))
        losses = loss_fn(outputs, labels)
        new_rest = nnx.state(model, nnx.Not(nnx.Param))
        return losses.mean(), (_metrics(losses, outputs, labels), new_rest)

    def step(state: TrainState, inputs: jax.Array, labels: jax.Array) -> tuple[TrainState, Metrics]:
        gradients, (metrics, rest) = jax.grad(mean_loss, has_aux=True)(
            state.params, state.rest, inputs, labels
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params=params, rest=rest, opt_state=opt_state), metrics

    return jax.jit(step, donate_argnums=0)


def make_eval_step(graphdef: nnx.GraphDef[Any], policy: Policy, loss_fn: LossFn) -> EvalStep:
    """Compile-ready ``(state, inputs [B, …], labels [B], real bool[B]) → metrics``.

    Rows where ``real`` is false are padding and count for nothing.
    """

    def step(state: TrainState, inputs: jax.Array, labels: jax.Array, real: jax.Array) -> Metrics:
        model: Any = nnx.merge(graphdef, policy.cast_compute(state.params), state.rest)
        outputs = policy.cast_output(model(policy.cast_compute(inputs)))
        return _metrics(loss_fn(outputs, labels), outputs, labels, real)

    return jax.jit(step)


def _metrics(
    losses: jax.Array, outputs: jax.Array, labels: jax.Array, real: jax.Array | None = None
) -> Metrics:
    right = jnp.argmax(outputs, axis=-1) == labels
    if real is not None:
        losses, right = jnp.where(real, losses, 0), right & real
    return Metrics(loss_sum=losses.sum().astype(jnp.float32), correct=right.sum(dtype=jnp.int32))
