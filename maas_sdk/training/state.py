"""The state of a training run: everything that a step changes, and nothing else.

The rule it keeps: the state is a pytree of arrays alone. The module's structure (``nnx.GraphDef``),
the optimizer's functions and the precision belong to the step; so a state can be sharded, donated,
saved and restored without any of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from maas_sdk.training.precision import Policy

__all__ = ["TrainState", "create_train_state", "initial_state"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "params", "rest", "opt_state", "ema", "skipped", "bad"],
    meta_fields=[],
)
@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Everything that a step changes."""

    # int32[], steps taken, skipped ones included.
    step: jax.Array
    # Master weights, in the policy's ``params`` dtype.
    params: nnx.State[Any, Any]
    # The module's other variables: batch statistics, counters of random streams.
    rest: nnx.State[Any, Any]
    opt_state: optax.OptState
    # Exponential moving average of ``params``; None when none is kept.
    ema: nnx.State[Any, Any] | None = None
    # int32[], steps whose loss or gradients were not finite.
    skipped: jax.Array
    # int32[], how many of the last steps in a row those are.
    bad: jax.Array

    @property
    def eval_params(self) -> nnx.State[Any, Any]:
        """Weights to evaluate and to return: the average where one is kept."""
        return self.params if self.ema is None else self.ema


def create_train_state(
    model: nnx.Module,
    optimizer: optax.GradientTransformation,
    policy: Policy,
    *,
    ema: bool = False,
) -> tuple[nnx.GraphDef[Any], TrainState]:
    """Split a module into its structure and the state that training starts from.

    The state shares its arrays with ``model``; a step donates what it is given, so hand it a copy
    (``sharding.layout.place`` makes one) where the model is still needed.
    """
    parts: Any = nnx.split(model, nnx.Param, ...)
    graphdef, params, rest = parts
    return graphdef, initial_state(policy.cast_params(params), rest, optimizer=optimizer, ema=ema)


def initial_state(
    params: nnx.State[Any, Any],
    rest: nnx.State[Any, Any],
    *,
    optimizer: optax.GradientTransformation,
    ema: bool = False,
) -> TrainState:
    """Return the state before the first step, of master weights and other variables."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        rest=rest,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        skipped=jnp.zeros((), jnp.int32),
        bad=jnp.zeros((), jnp.int32),
    )
