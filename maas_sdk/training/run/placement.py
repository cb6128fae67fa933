"""Placement of a run's arrays: the configured mesh, and the state and batches on it.

The rule it keeps: the trainer uses ``maas_sdk.sharding`` here alone; the step and the loop are
written for whole arrays. Optimizer state is created with its sharding: nothing but the given
weights is ever whole on one device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from maas_sdk.sharding.layout import (
    Layout,
    check_batch_size,
    lay_out,
    place,
    place_batch,
    replicated,
    state_shardings,
)
from maas_sdk.sharding.strategies import mesh_for
from maas_sdk.training.run.config import TrainConfig
from maas_sdk.training.run.input_pipeline import HostBatch
from maas_sdk.training.state import TrainState, initial_state

__all__ = ["batch_placer", "gather", "mesh_of", "placed_state"]


def mesh_of(config: TrainConfig) -> Mesh:
    """Return the configured mesh.

    Raises:
        ConfigError: no such strategy, or a batch that cannot be cut evenly over the mesh.
    """
    mesh = mesh_for(config.strategy, axes=config.mesh, dcn=config.dcn)
    check_batch_size(mesh, config.batch_size)
    return mesh


def placed_state(
    config: TrainConfig,
    mesh: Mesh,
    params: nnx.State[Any, Any],
    rest: nnx.State[Any, Any],
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, Layout]:
    """Return the initial state on the mesh, in its own buffers, which a step may donate.

    Args:
        config: strategy, rules and whether an average of the weights is kept.
        mesh: of the configuration.
        params: weights, which are copied.
        rest: the module's other variables, which are copied.
        optimizer: whose state follows the weights.
    """
    layout = lay_out(params, mesh, strategy=config.strategy, rules=config.rules)
    params = place(config.policy.cast_params(params), layout.shardings)
    rest = place(rest, state_shardings(layout, rest))
    begin = partial(initial_state, optimizer=optimizer, ema=config.optimizer.ema_decay is not None)
    # By shapes first: the optimizer's state must be cut before any of it is allocated.
    shardings = state_shardings(layout, jax.eval_shape(begin, params, rest))
    state: TrainState = jax.jit(begin, out_shardings=shardings)(params, rest)
    return state, layout


def batch_placer(mesh: Mesh) -> Callable[[HostBatch], Any]:
    """Return a function: a host's part of a batch → the arrays of a program on the mesh.

    The one device of a mesh is handed the host's arrays as they are: the call of the program puts
    them there in an eighth of the time that ``device_put`` takes, 10 µs against 85 for two arrays.
    """
    if mesh.size == 1 and jax.process_count() == 1:
        return lambda batch: batch
    return partial(place_batch, mesh)


def gather(mesh: Mesh, tree: Any) -> Any:
    """Return the arrays of a tree, whole, on this process's first device."""
    first = jax.local_devices()[0]
    if jax.process_count() > 1:
        # What other processes hold is sent to all of them first.
        tree = jax.jit(lambda t: t, out_shardings=replicated(mesh))(tree)
        tree = jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)
    return jax.device_put(tree, first)
