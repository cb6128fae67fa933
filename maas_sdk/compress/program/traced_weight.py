"""A weight in a traced program, with its axes followed through layout operations.

The rule it keeps: layout operations (transposes, reshapes, dimensions of size one) are followed
exactly, axis by axis; after anything else a weight is an array like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import jax
import numpy as np

__all__ = ["LAYOUT", "Known", "Weight", "moved"]

# Operations that a weight may go through and stay one.
LAYOUT: Final = frozenset({"transpose", "reshape", "squeeze", "broadcast_in_dim", "expand_dims"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Weight:
    """A weight in the program before it is used as an array."""

    name: str
    # What stands for it, opaque to this file: handed to ``Products`` and, of a stack of layers,
    # cut along its first axis.
    parts: Any
    # Shape of the weight itself, of one layer where it is a stack inside its scan.
    shape: tuple[int, ...]
    # Per dimension as it is now, the axes of ``shape`` that make it up.
    dims: tuple[tuple[int, ...], ...]
    # Sizes now, and dtype now.
    sizes: tuple[int, ...]
    dtype: Any
    # Whether it is one layer of a stack; whether ``parts`` can be cut into such layers.
    layer: bool = False
    cuts: bool = True
    # The layout operations that lead from ``shape`` to ``sizes``.
    steps: tuple[Callable[[Any], Any], ...] = ()

    @classmethod
    def of(cls, name: str, parts: Any, shape: Sequence[int], dtype: Any) -> Weight:
        """Return a weight as the program is given it."""
        return cls(
            name=name,
            parts=parts,
            shape=tuple(shape),
            dims=tuple((axis,) for axis in range(len(shape))),
            sizes=tuple(shape),
            dtype=dtype,
        )

    def laid_out(self, array: Any) -> Any:
        """Return an array of ``shape`` after the weight's layout operations."""
        for step in self.steps:
            array = step(array)
        return array


@dataclass(frozen=True, slots=True)
class Known:
    """A value that depends on weights alone."""

    value: Any


def moved(eqn: Any, weight: Weight) -> Weight | None:
    """Return the weight after a layout operation; None for any other operation."""
    sizes = tuple(eqn.outvars[0].aval.shape)
    if eqn.primitive.name == "transpose":
        order = eqn.params["permutation"]
        dims = tuple(weight.dims[axis] for axis in order)
        step: Callable[[Any], Any] = lambda array: jax.lax.transpose(array, order)  # noqa: E731
    else:
        if eqn.primitive.name == "broadcast_in_dim" and np.prod(sizes) != np.prod(weight.sizes):
            return None
        if eqn.params.get("dimensions") is not None and eqn.primitive.name == "reshape":
            return None
        split = _reshaped(weight, sizes)
        if split is None:
            return None
        dims = split
        step = lambda array: jax.lax.reshape(array, sizes)  # noqa: E731
    return replace(weight, dims=dims, sizes=sizes, steps=(*weight.steps, step))


def _reshaped(weight: Weight, sizes: Sequence[int]) -> tuple[tuple[int, ...], ...] | None:
    """Return the axes of each dimension after a reshape; None where they cannot be told."""
    dims: list[tuple[int, ...]] = []
    old = [(n, axes) for n, axes in zip(weight.sizes, weight.dims, strict=True) if n != 1]
    room = 1
    axes: tuple[int, ...] = ()
    source = iter(old)
    for size in sizes:
        if size == 1:
            dims.append(())
            continue
        taken: tuple[int, ...] = ()
        # A dimension takes whole ones, or its share of one that is split over several.
        while size > 1:
            if room == 1:
                found = next(source, None)
                if found is None:
                    return None
                room, axes = found
            if room % size == 0:
                room, size = room // size, 1
            elif size % room == 0:
                size, room = size // room, 1
            else:
                return None
            taken = (*taken, *(axis for axis in axes if axis not in taken))
        dims.append(taken)
    return tuple(dims)
