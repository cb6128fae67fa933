"""Where the numbers of a product lie: scales, shifts and divisors, beside its operands and result.

The rule it keeps: numbers are laid out by the weight's own layout operations, so they follow it
through any transpose and reshape; what comes out broadcasts against what it is meant for.

Dimension letters: O output channels, I inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from maas_sdk.compress.layout import Layout
from maas_sdk.compress.uses import Use

__all__ = [
    "for_input",
    "for_result",
    "over_channels",
    "over_inputs",
    "row_axes",
    "row_dims",
    "rows_for_result",
]


def over_inputs(layout: Layout, vector: Any) -> Any:
    """[I] → the weight's rank, 1 along its channels."""
    sizes = [layout.shape[axis] for axis in layout.in_axes]
    spread = vector.reshape([1] * len(layout.out_axes) + sizes)
    return jnp.transpose(spread, np.argsort(layout.out_axes + layout.in_axes).tolist())


def over_channels(layout: Layout, vector: Any) -> Any:
    """[O] → the weight's rank, 1 along its inputs."""
    sizes = [layout.shape[axis] for axis in layout.out_axes]
    spread = vector.reshape(sizes + [1] * len(layout.in_axes))
    return jnp.transpose(spread, np.argsort(layout.out_axes + layout.in_axes).tolist())


def for_result(use: Use, numbers: Any) -> Any:
    """Numbers per channel, of the weight's rank → to be broadcast against the result."""
    # What is shared is not spread before it has to be: a reshape wants the weight's own sizes.
    laid = _laid(use, numbers) if use.weight.steps else numbers
    picked = laid[tuple(0 if dim in use.summed else slice(None) for dim in range(laid.ndim))]
    left = sorted(use.kept)
    picked = jnp.transpose(picked, [left.index(dim) for dim in use.kept])
    shape = [1] * len(use.shape)
    for dim, size in zip(use.channel_dims, picked.shape, strict=True):
        shape[dim] = size
    return picked.reshape(shape)


def for_input(use: Use, other: Any, numbers: Any) -> Any:
    """Numbers per input, of the weight's rank → to be broadcast against a dense product's input."""
    laid = _laid(use, numbers)
    picked = laid[tuple(slice(None) if dim in use.summed else 0 for dim in range(laid.ndim))]
    mine, theirs = _contracted(use)
    left = sorted(mine)
    shape = [1] * other.ndim
    for dim in theirs:
        shape[dim] = other.shape[dim]
    order = [left.index(dim) for _, dim in sorted(zip(theirs, mine, strict=True))]
    return jnp.transpose(picked, order).reshape(shape)


def row_axes(use: Use, other: Any) -> tuple[int, ...]:
    """Dimensions of the input over which one row's scale is taken."""
    if use.kind == "dense":
        return tuple(_contracted(use)[1])
    rows = use.params["dimension_numbers"].lhs_spec[0]
    return tuple(dim for dim in range(other.ndim) if dim != rows)


def row_dims(use: Use, other: Any) -> list[tuple[int, int]]:
    """Of a dense product, the dimensions that are not summed over: of the input, of the result."""
    batch = use.params["dimension_numbers"][1][1 if use.first else 0]
    summed = _contracted(use)[1]
    free = [dim for dim in range(other.ndim) if dim not in (*summed, *batch)]
    dims = [*range(len(batch)), *(d for d in range(len(use.shape)) if d not in use.channel_dims)]
    return list(zip([*batch, *free], dims, strict=True))


def rows_for_result(use: Use, numbers: Any) -> Any:
    """A number per row of the input, 1 where shared → to be broadcast against the result."""
    if use.kind == "conv":
        rows = use.params["dimension_numbers"]
        shape = [1] * len(use.shape)
        shape[rows.out_spec[0]] = numbers.shape[rows.lhs_spec[0]]
        return numbers.reshape(shape)
    dims = row_dims(use, numbers)
    shape = [1] * len(use.shape)
    for mine, theirs in dims:
        shape[theirs] = numbers.shape[mine]
    kept = [mine for mine, _ in dims]
    summed = [dim for dim in range(numbers.ndim) if dim not in kept]
    order = [mine for mine, _ in sorted(dims, key=lambda pair: pair[1])]
    return jnp.transpose(numbers, [*order, *summed]).reshape(shape)


def _laid(use: Use, numbers: Any) -> Any:
    """Numbers of the weight's rank, 1 where shared, laid out as the weight is."""
    return use.weight.laid_out(jnp.broadcast_to(numbers, use.weight.shape))


def _contracted(use: Use) -> tuple[Sequence[int], Sequence[int]]:
    """Of a dense product: dimensions summed over, of the weight and of the input."""
    left, right = use.params["dimension_numbers"][0]
    return (left, right) if use.first else (right, left)
