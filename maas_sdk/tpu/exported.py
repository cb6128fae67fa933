"""A traced function as a file, so that the compiling process needs none of the caller's code.

A model with its weights cannot be named by ``module:function`` and options, as recipes are. Here it
is lowered from shapes to StableHLO on this side, written to a file, and ``load`` is the recipe that
hands the file to the compiler.

The rule it keeps: shapes go in, never data; and every argument stays a parameter of the compiled
program, numbered in the order of ``jax.tree.leaves(arguments)``, also one that nothing depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import export
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maas_sdk.tpu.program import PlannedProgram

__all__ = ["RECIPE", "load", "write"]

# What a job names to compile such a file.
RECIPE = f"{__name__}:load"


def write(file: Path, fn: Callable[..., Any], *arguments: Any) -> None:
    """Lower ``fn`` for one TPU chip and write it.

    Args:
        file: where to.
        fn: a function that jax can trace.
        arguments: pytrees of arrays or ``jax.ShapeDtypeStruct``; shapes and dtypes count.
    """
    jitted = jax.jit(fn, keep_unused=True)
    file.write_bytes(export.export(jitted, platforms=("tpu",))(*arguments).serialize())


def load(mesh: Mesh, *, file: str, kinds: Sequence[str]) -> PlannedProgram:
    """Load, as a recipe, the program that ``write`` wrote, whole on every chip of the mesh.

    Args:
        mesh: of one chip.
        file: that ``write`` made.
        kinds: for each argument one of ``program.KINDS``.
    """
    found = export.deserialize(bytearray(Path(file).read_bytes()))
    whole = NamedSharding(mesh, PartitionSpec())  # type: ignore[no-untyped-call]
    struct: Any = jax.ShapeDtypeStruct
    leaves = [struct(aval.shape, aval.dtype, sharding=whole) for aval in found.in_avals]
    arguments, _ = jax.tree.unflatten(found.in_tree, leaves)
    return PlannedProgram(fn=found.call, arguments=tuple(arguments), kinds=tuple(kinds))
