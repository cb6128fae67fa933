"""The compiled programs of a run: each compiled once, ahead of its first use.

The rule it keeps: the loop runs executables, not functions that may be traced again, so a batch of
another shape is an error and never a second compilation. A
program takes the state as a flat list of arrays: taking a Flax state apart in Python at every step
would cost more than a small step itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maas_sdk.training.metrics import pack
from maas_sdk.training.step import Batch, EvalStep, TrainState, TrainStep

__all__ = [
    "EvalProgram",
    "Leaves",
    "TrainProgram",
    "compile_eval",
    "compile_train",
    "copy_leaves",
]

# The arrays of a ``TrainState``, in the order of its tree.
Leaves = Sequence[jax.Array]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainProgram:
    """Compiled (leaves of a ``TrainState``, batch) → (new leaves, metrics float32[2, M])."""

    run: Callable[[Leaves, Batch], tuple[list[jax.Array], jax.Array]]
    # Sorted names of the M metrics.
    names: tuple[str, ...]
    # What the compiler knows of it: ``memory_analysis``, ``as_text``.
    compiled: Any
    # Shapes of the batch it takes.
    batch: Mapping[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalProgram:
    """Compiled (leaves of a ``TrainState``, batch) → metrics packed as float32[2, M]."""

    run: Callable[[Leaves, Batch], jax.Array]
    names: tuple[str, ...]


def compile_train(
    step: TrainStep,
    state: TrainState,
    batch: Batch,
    mesh: Mesh,
    *,
    traced: Callable[[], object] | None = None,
) -> TrainProgram:
    """Compile the training step for this state and batch, both placed on the mesh.

    The program donates the leaves; new ones lie where the given ones did. ``traced`` is called
    between tracing, when every shape is known, and compiling, which may take minutes.
    """
    leaves, tree = jax.tree.flatten(state)
    names: list[str] = []

    def run(leaves: list[jax.Array], batch: Batch) -> tuple[list[jax.Array], jax.Array]:
        new, metrics = step(jax.tree.unflatten(tree, leaves), batch)
        # Known only while the step is traced: an array, which is what comes out, has no names.
        names[:] = sorted(metrics)
        return jax.tree.leaves(new), pack(metrics)

    jitted = jax.jit(
        run,
        donate_argnums=0,
        # Else XLA may choose others, which the same executable refuses as inputs of the next step.
        out_shardings=([leaf.sharding for leaf in leaves], _replicated(mesh)),
    )
    lowered = jitted.lower(leaves, batch)
    if traced is not None:
        traced()
    compiled = lowered.compile()
    return TrainProgram(
        run=compiled,
        names=tuple(names),
        compiled=compiled,
        # What later batches are held against when the executable refuses one.
        batch=jax.eval_shape(lambda: dict(batch)),
    )


def compile_eval(step: EvalStep, state: TrainState, batch: Batch, mesh: Mesh) -> EvalProgram:
    """Compile the evaluation step for this state and batch, both placed on the mesh."""
    leaves, tree = jax.tree.flatten(state)
    names: list[str] = []

    def run(leaves: list[jax.Array], batch: Batch) -> jax.Array:
        metrics = step(jax.tree.unflatten(tree, leaves), batch)
        names[:] = sorted(metrics)
        return pack(metrics)

    # Nothing is donated: training goes on with the same leaves.
    jitted = jax.jit(run, out_shardings=_replicated(mesh))
    return EvalProgram(run=jitted.lower(leaves, batch).compile(), names=tuple(names))


@jax.jit
def copy_leaves(leaves: Leaves) -> list[jax.Array]:
    """Copy the arrays into their own buffers, which no step donates."""
    # One program for all arrays instead of one call for each.
    return [jnp.copy(leaf) for leaf in leaves]


def _replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())  # type: ignore[no-untyped-call]
