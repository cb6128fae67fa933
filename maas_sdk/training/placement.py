"""Where a run's arrays lie: the mesh of a configuration, and the state and batches on it.

The rule it keeps: all that the trainer knows of sharding is asked of ``maas_sdk.sharding`` here, in
one place; the step and the loop are written for whole arrays and know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from maas_sdk.sharding.data_parallel import check_batch_size, mesh_for, place_batch, replicate
from maas_sdk.training.config import TrainConfig
from maas_sdk.training.feed import HostBatch
from maas_sdk.training.step import TrainState

__all__ = ["mesh_of", "placed_state", "placing"]


def mesh_of(config: TrainConfig) -> Mesh:
    """The mesh that a configuration says.

    Raises:
        ConfigError: no such strategy, or a batch that cannot be cut evenly over the mesh.
    """
    mesh = mesh_for("data_parallel" if config.strategy == "data" else config.strategy)
    check_batch_size(mesh, config.batch_size)
    return mesh


def placed_state(config: TrainConfig, mesh: Mesh, state: TrainState) -> TrainState:
    """The state on the mesh, in buffers of its own, which a step may donate."""
    return replicate(mesh, state)


def placing(mesh: Mesh) -> Callable[[HostBatch], Any]:
    """A host's part of a batch → the global batch on the mesh, cut along its rows."""

    def place(batch: HostBatch) -> Any:
        return place_batch(mesh, batch)

    return place
