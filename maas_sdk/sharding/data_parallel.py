"""Data parallelism: the batch is cut along its rows, the state is the same on every device.

The rule it keeps: this file only says *where* arrays lie. The step itself is written for the whole
batch under ``jax.jit``, and the compiler puts in the one all-reduce that the gradients need.

``strategy="pmap"`` is a spelling of the same thing: since jax 0.10 ``jax.pmap`` is itself
``jit(shard_map)``, and nothing that users valued in it is lost here.

Dimension letters: B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maas_sdk.errors import ConfigError
from maas_sdk.sharding.mesh import make_mesh

__all__ = [
    "STRATEGIES",
    "batch_sharding",
    "check_batch_size",
    "mesh_for",
    "place_batch",
    "replicate",
    "replicated",
]

T = TypeVar("T")

# Mesh axes by the name that users say. Both rows mean the same layout.
STRATEGIES: Final[Mapping[str, Mapping[str, int]]] = {
    "data_parallel": {"data": -1},
    "pmap": {"data": -1},
}


def mesh_for(strategy: str) -> Mesh:
    """The mesh that a strategy stands for, over all devices of the process.

    Raises:
        ConfigError: no such strategy.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(
            f"unknown strategy {strategy!r}; known are {', '.join(sorted(STRATEGIES))}",
            strategy=strategy,
        )
    return make_mesh(STRATEGIES[strategy])


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows cut over the mesh's ``data`` axis, every other dimension whole.

    Raises:
        ConfigError: the mesh has no axis ``data``.
    """
    if "data" not in mesh.axis_names:
        raise ConfigError(
            f"data parallelism needs a mesh axis 'data'; this mesh has {', '.join(mesh.axis_names)}"
        )
    return NamedSharding(mesh, PartitionSpec("data"))  # type: ignore[no-untyped-call]


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device of the mesh."""
    return NamedSharding(mesh, PartitionSpec())  # type: ignore[no-untyped-call]


def check_batch_size(mesh: Mesh, batch_size: int) -> None:
    """Refuse a batch that cannot be cut evenly.

    Raises:
        ConfigError: B is not a positive multiple of the ``data`` axis.
    """
    parts = batch_sharding(mesh).mesh.shape["data"]
    if batch_size < 1 or batch_size % parts:
        nearest = max(parts, round(batch_size / parts) * parts)
        raise ConfigError(
            f"batch_size {batch_size} cannot be cut evenly over {parts} devices; "
            f"the nearest that can is {nearest}",
            batch_size=batch_size,
            devices=parts,
        )


def place_batch(mesh: Mesh, batch: T) -> T:
    """The arrays of a pytree, each ``[B, …]``, cut by rows over the mesh."""
    placed: T = jax.device_put(batch, batch_sharding(mesh))
    return placed


def replicate(mesh: Mesh, tree: T) -> T:
    """The arrays of a pytree, whole on every device, in buffers of their own.

    The copies share no memory with ``tree``, so a step may donate them without taking the
    caller's arrays away.
    """
    # The copy is made first: device_put itself keeps the original as the first device's shard
    # (``may_alias=False`` too, in jax 0.10.2), and donation would delete it.
    placed: T = jax.device_put(jax.tree.map(jnp.copy, tree), replicated(mesh))
    return placed
