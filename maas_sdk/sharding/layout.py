"""Shardings of a training run's arrays: parameters, their state, and batches.

    layout = lay_out(params, mesh, strategy="fsdp")
    params = place(params, layout.shardings)
    opt_state = place(opt_state, state_shardings(layout, opt_state))

The rule it keeps: this file only says *where* arrays lie. A step is written for the whole batch and
the whole model under ``jax.jit``, and the compiler puts in the collectives that the layout needs.

Dimension letters: B rows of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maas_sdk.errors import ConfigError
from maas_sdk.model.leaf import Leaf
from maas_sdk.sharding.advice import (
    mostly_whole,
    replicated_share,
    unmatched,
    unused_axes,
)
from maas_sdk.sharding.leaves import leaves_of
from maas_sdk.sharding.partition import (
    MIN_SHARD_BYTES,
    LeafPlan,
    Policies,
    follow,
    plan_as,
    plan_leaf,
    spec_of,
)
from maas_sdk.sharding.rules import LOGICAL_AXES, RULES, Rule
from maas_sdk.sharding.strategies import strategy_by_name

__all__ = [
    "BATCH_AXES",
    "Layout",
    "batch_sharding",
    "check_batch_size",
    "host_part",
    "lay_out",
    "place",
    "place_batch",
    "replicated",
    "row_parts",
    "state_shardings",
]

T = TypeVar("T")

# Mesh axes over which the rows of a batch are cut.
BATCH_AXES: Final = ("data", "fsdp")

# What lies beside the int8 numbers of a quantized weight and is cut as they are.
_QUANTIZED: Final = "qvalue"
_SCALES: Final = ("scale", "zero_point")
_INSIDE: Final = (_QUANTIZED, *_SCALES, "array")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Shardings of a model's parameters on a mesh."""

    mesh: Mesh
    # The name of the strategy, in its first spelling.
    strategy: str
    # A pytree of ``NamedSharding`` with the structure of the parameters.
    shardings: Any
    # One per parameter, in the tree's order.
    rows: tuple[LeafPlan, ...]
    # What could not be done as asked, each with the remedy.
    warnings: tuple[str, ...]

    @property
    def replicated_share(self) -> float:
        """Share of all parameters' bytes that every device holds whole; 0 of none."""
        return replicated_share(self.rows)


def lay_out(
    params: Any,
    mesh: Mesh,
    *,
    strategy: str = "data",
    rules: Sequence[Rule | tuple[str, Sequence[Any]]] = (),
    presets: Sequence[Rule] = RULES["standard"],
    logical_axes: Mapping[str, tuple[str, ...]] = LOGICAL_AXES,
    min_shard_bytes: int = MIN_SHARD_BYTES,
) -> Layout:
    """Decide the sharding of each parameter on the mesh.

    Args:
        params: an nnx module or state, linen variables or any other pytree, of arrays or of
            ``jax.ShapeDtypeStruct``: only shapes are looked at.
        mesh: made by ``mesh_for`` or ``make_mesh``.
        strategy: a name out of ``strategies.STRATEGIES``.
        rules: asked first, in this order; the first that matches decides. Pairs of pattern and
            partition do as well.
        presets: asked after the module's own annotations.
        logical_axes: what authors call dimensions → mesh axes.
        min_shard_bytes: automatic FSDP leaves smaller parameters whole.

    Returns:
        The layout; ``explain(layout)`` shows it. For a module, ``shardings`` has the structure of
        ``nnx.state(module, nnx.Param)``.

    Raises:
        ConfigError: no such strategy, a rule that is none, or one that names more dimensions than
            a parameter that it matches has.
        InputError: a leaf without shape and dtype.
    """
    chosen = strategy_by_name(strategy)
    tree = nnx.state(params, nnx.Param) if isinstance(params, nnx.Module) else params
    own = tuple(r if isinstance(r, Rule) else Rule(r[0], tuple(r[1])) for r in rules)
    policies = Policies(
        mesh=dict(mesh.shape),
        weight_axes=chosen.weight_axes,
        rules=own,
        presets=presets,
        logical_axes=logical_axes,
        min_shard_bytes=min_shard_bytes,
    )
    leaves = leaves_of(tree)
    rows = _plan(leaves, policies)
    return Layout(
        mesh=mesh,
        strategy=chosen.name,
        shardings=jax.tree.unflatten(
            jax.tree.structure(tree), [_named(mesh, row.spec) for row in rows]
        ),
        rows=rows,
        warnings=(
            *unmatched(own, rows),
            *unused_axes(rows, chosen.name, chosen.weight_axes, mesh.shape),
            *(note for row in rows for note in row.notes),
            *mostly_whole(rows, chosen.name, chosen.weight_axes, mesh.shape),
        ),
    )


def state_shardings(layout: Layout, state: Any) -> Any:
    """Return shardings of arrays that belong to parameters: each follows its weight.

    An array whose path ends in a parameter's path (``0/mu/head/kernel``), or lies inside of it
    (``head/kernel/scale``), is cut like that parameter: see ``partition.follow``. Everything else
    is whole on every device.

    Args:
        layout: of the parameters.
        state: any pytree of arrays or shapes: optimizer state, averages, a whole train state,
            quantized parameters.

    Returns:
        A pytree of ``NamedSharding`` with the structure of ``state``.

    Raises:
        InputError: a leaf without shape and dtype.
    """
    by_path = {row.path: row for row in layout.rows}
    mesh = dict(layout.mesh.shape)
    found = []
    for leaf in leaves_of(state):
        row = _weight_of(leaf.name, by_path)
        partition = () if row is None else follow(row.partition, row.shape, leaf.shape, mesh)
        found.append(_named(layout.mesh, spec_of(partition)))
    return jax.tree.unflatten(jax.tree.structure(state), found)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return a sharding of rows over the axes of ``BATCH_AXES`` that the mesh has."""
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)
    return _named(mesh, spec_of((axes,) if axes else ()))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that keeps the whole array on every device of the mesh."""
    return _named(mesh, spec_of(()))


def row_parts(mesh: Mesh) -> int:
    """Return the number of parts that the rows of a batch are cut into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES if axis in mesh.axis_names)


def check_batch_size(mesh: Mesh, batch_size: int) -> None:
    """Refuse a batch that cannot be cut evenly.

    Raises:
        ConfigError: B is not a positive multiple of ``row_parts(mesh)``.
    """
    parts = row_parts(mesh)
    if batch_size < 1 or batch_size % parts:
        nearest = max(parts, round(batch_size / parts) * parts)
        raise ConfigError(
            f"batch_size {batch_size} cannot be cut evenly over {parts} devices; "
            f"the nearest that can is {nearest}",
            batch_size=batch_size,
            devices=parts,
        )


def place_batch(mesh: Mesh, batch: T) -> T:
    """Place the arrays of a pytree, each ``[B, …]``, cut by rows over the mesh.

    With several processes each hands in the rows of its own devices (``host_part`` says which),
    and B of the result counts the rows of all.
    """
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        placed: T = jax.device_put(batch, sharding)
        return placed

    def put(local: Any) -> jax.Array:
        make: Any = jax.make_array_from_process_local_data
        whole: jax.Array = make(sharding, np.asarray(local))
        return whole

    each: T = jax.tree.map(put, batch)
    return each


def host_part(mesh: Mesh) -> tuple[int, int]:
    """Return the part of a batch that this process supplies: (index, count of parts).

    Processes whose devices hold the same rows, because they share a model between them, have the
    same index.

    Raises:
        ConfigError: rows are cut so that processes would share some of them but not all.
    """
    parts = row_parts(mesh)
    held: dict[int, set[int]] = {}
    where: Any = batch_sharding(mesh).devices_indices_map((parts,))
    for device, (rows,) in where.items():
        held.setdefault(device.process_index, set()).update(range(*rows.indices(parts)))
    groups = sorted({tuple(sorted(rows)) for rows in held.values()})
    if sum(map(len, groups)) != parts:
        raise ConfigError(
            f"mesh {dict(mesh.shape)}: processes hold overlapping rows of a batch; make the "
            f"product of {' and '.join(BATCH_AXES)} a multiple or a divisor of the number of "
            "processes"
        )
    return groups.index(tuple(sorted(held[jax.process_index()]))), len(groups)


def place(tree: T, shardings: Any) -> T:
    """Place the arrays of a pytree where ``shardings`` says, in buffers of their own.

    The copies share no memory with ``tree``, so a step may donate them without taking the caller's
    arrays away. With several processes each hands in the same whole arrays, and only the parts of
    its own devices are put there.

    Args:
        tree: a pytree of arrays.
        shardings: one sharding for all of them, or a pytree of shardings of the same structure.
    """
    if isinstance(shardings, jax.sharding.Sharding):
        one = shardings
        placed: T = jax.tree.map(lambda leaf: _place(leaf, one), tree)
        return placed
    each: T = jax.tree.map(_place, tree, shardings)
    return each


def _place(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and (jax.process_count() == 1 or not leaf.is_fully_addressable):
        # The copy is made first: device_put itself keeps the original as the first device's shard
        # (``may_alias=False`` too, in jax 0.10.2), and donation would delete it.
        copy: jax.Array = jax.device_put(jnp.copy(leaf), sharding)
        return copy
    host = np.asarray(leaf)
    return jax.make_array_from_callback(
        host.shape, sharding, lambda index: np.array(host[index], copy=True)
    )


def _plan(leaves: Sequence[Leaf], policies: Policies) -> tuple[LeafPlan, ...]:
    """Decide all shardings: scales of quantized weights after the weights that they follow."""
    weights = {path for path in (leaf.name for leaf in leaves) if _last(path) == _QUANTIZED}
    owner = {
        leaf.name: f"{_parent(leaf.name)}/{_QUANTIZED}"
        for leaf in leaves
        if _last(leaf.name) in _SCALES and f"{_parent(leaf.name)}/{_QUANTIZED}" in weights
    }
    plans = {leaf.name: plan_leaf(leaf, policies) for leaf in leaves if leaf.name not in owner}
    for leaf in leaves:
        if leaf.name in owner:
            weight = plans[owner[leaf.name]]
            partition = follow(weight.partition, weight.shape, leaf.shape, policies.mesh)
            plans[leaf.name] = plan_as(leaf, partition, weight.path, policies)
    return tuple(plans[leaf.name] for leaf in leaves)


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _weight_of(path: str, by_path: Mapping[str, LeafPlan]) -> LeafPlan | None:
    """Return the parameter of a leaf of some state: the longest path within the leaf's."""
    keys = path.split("/")
    for start in range(len(keys)):
        for end in range(len(keys), start, -1):
            row = by_path.get("/".join(keys[start:end]))
            if row is not None and (end == len(keys) or keys[end] in _INSIDE):
                return row
    return None


def _named(mesh: Mesh, spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(mesh, spec)
