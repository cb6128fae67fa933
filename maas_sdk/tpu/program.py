"""Results of a recipe: a function and its arguments as shapes with shardings.

The rule it keeps: nothing here holds data. A recipe is a function that is called in the process
that compiles, with the mesh of the slice::

    def recipe(mesh: jax.sharding.Mesh, **options) -> Program

It is named by ``module:function`` or ``file.py:function``, and its options are JSON, so that it can
be sent there. Shapes are ``jax.ShapeDtypeStruct`` with a ``NamedSharding`` on that mesh.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["KINDS", "PlannedProgram"]

# What memory is used for, in the order in which tables show it.
KINDS = ("weights", "optimizer", "cache", "batch", "other")


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedProgram:
    """One step, ready to be lowered."""

    # Called as fn(*arguments) under jax.jit.
    fn: Callable[..., Any]
    # Pytrees of shapes with shardings.
    arguments: tuple[Any, ...]
    # For each argument, which of KINDS its leaves are; a pytree of strings of the argument's own
    # structure says it leaf by leaf.
    kinds: tuple[Any, ...]
    # Arguments whose memory the results take over.
    donate: tuple[int, ...] = ()
    # Pytree of shardings of the results; None leaves them to the compiler.
    out_shardings: Any = None
    # Arithmetic of the model itself, of one call on all chips: two operations per multiply-add, no
    # recomputation. None counts what the program does.
    model_flops: float | None = None
    # What one call works off, for figures per second: how many of what.
    items: int = 1
    item_name: str = "steps"
