"""Alignment of a product's per-channel and per-input numbers with its operands and result.

The rule it keeps: numbers are laid out by the weight's own layout operations, so they follow it
through any transpose and reshape, and the result broadcasts against its operand.

Dimension letters: O output channels, I inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import jax.numpy as jnp
import numpy as np

from maas_sdk.compress.methods.levels import activations as levels_of
from maas_sdk.compress.methods.matrix_view import MatrixView
from maas_sdk.compress.program.weight_uses import Use

__all__ = [
    "as_stored",
    "bound",
    "for_input",
    "for_result",
    "in_levels",
    "over_channels",
    "over_inputs",
    "row_axes",
    "row_dims",
    "rows_first",
    "rows_for_result",
    "turns",
    "weight_first",
]

# Rows that XLA:CPU multiplies faster with the weight first (2048 × 2048 in int8, milliseconds this
# way and the other: 1.5 and 1.9 for 8 rows, 9.0 and 9.3 for 64, 34 and 35 for 256).
_FEW_ROWS: Final = 128


def over_inputs(layout: MatrixView, vector: Any) -> Any:
    """Reshape [I] to the weight's rank, 1 along its channels."""
    sizes = [layout.shape[axis] for axis in layout.in_axes]
    spread = vector.reshape([1] * len(layout.out_axes) + sizes)
    return jnp.transpose(spread, np.argsort(layout.out_axes + layout.in_axes).tolist())


def over_channels(layout: MatrixView, vector: Any) -> Any:
    """Reshape [O] to the weight's rank, 1 along its inputs."""
    sizes = [layout.shape[axis] for axis in layout.out_axes]
    spread = vector.reshape(sizes + [1] * len(layout.in_axes))
    return jnp.transpose(spread, np.argsort(layout.out_axes + layout.in_axes).tolist())


def for_result(use: Use, numbers: Any) -> Any:
    """Align per-channel numbers of the weight's rank with the result, for broadcasting."""
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
    """Align per-input numbers of the weight's rank with a dense product's input."""
    laid = _laid(use, numbers)
    picked = laid[tuple(slice(None) if dim in use.summed else 0 for dim in range(laid.ndim))]
    mine, theirs = _contracted(use)
    left = sorted(mine)
    shape = [1] * other.ndim
    for dim in theirs:
        shape[dim] = other.shape[dim]
    order = [left.index(dim) for _, dim in sorted(zip(theirs, mine, strict=True))]
    return jnp.transpose(picked, order).reshape(shape)


def as_stored(use: Use, order: Sequence[int] | None) -> dict[str, Any]:
    """Return a dense product's changes for the weight's axes in another order; {}: impossible.

    A transpose in between means the same, but XLA:CPU knows products of int8 by their form: it
    would widen the whole weight to int32 first.
    """
    dims = use.weight.dims
    if order is None or use.kind != "dense" or any(len(axes) != 1 for axes in dims):
        return {}
    at = [order.index(axes[0]) for axes in dims]
    contract, batch = use.params["dimension_numbers"]
    side = 0 if use.first else 1
    free = [at[dim] for dim in use.kept if dim not in batch[side]]
    if sorted(at) != [*range(len(order))] or free != sorted(free):
        return {}

    def moved(pair: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
        sides = [tuple(pair[0]), tuple(pair[1])]
        sides[side] = tuple(at[dim] for dim in sides[side])
        return tuple(sides)

    return {"dimension_numbers": (moved(contract), moved(batch))}


def bound(use: Use, other: Any, array: Any, **changes: Any) -> Any:
    """Bind the equation with another array in the weight's place."""
    return use.bind(array, other, **changes) if use.first else use.bind(other, array, **changes)


def weight_first(use: Use, other: Any, array: Any, **changes: Any) -> Any:
    """Compute a dense product with channels first: [channels…, rows…]; no batch dimensions.

    XLA:CPU multiplies few rows up to twice as fast this way round.
    """
    if use.first:
        return use.bind(array, other, **changes)
    (left, right), batch = changes.get("dimension_numbers", use.params["dimension_numbers"])
    changes["dimension_numbers"] = ((right, left), batch)
    return use.bind(array, other, **changes)


def rows_first(use: Use, found: Any) -> Any:
    """Transpose the result of ``weight_first`` to the program's order."""
    if use.first:
        return found
    kept = len(use.kept)
    return jnp.transpose(found, [*range(kept, found.ndim), *range(kept)])


def turns(use: Use, other: Any) -> bool:
    """Return True when ``weight_first`` is possible and pays: few rows, no batch dimensions.

    Of many rows the result would be turned back through memory, and a weight that is decoded for
    all of them costs little beside their product.
    """
    if use.kind != "dense" or use.params["dimension_numbers"][1][0]:
        return False
    rows = math.prod(int(other.shape[mine]) for mine, _ in row_dims(use, other))
    return rows <= _FEW_ROWS


def row_axes(use: Use, other: Any) -> tuple[int, ...]:
    """Return dimensions of the input over which one row's scale is taken."""
    if use.kind == "dense":
        return tuple(_contracted(use)[1])
    rows = use.params["dimension_numbers"].lhs_spec[0]
    return tuple(dim for dim in range(other.ndim) if dim != rows)


def row_dims(use: Use, other: Any) -> list[tuple[int, int]]:
    """Return a dense product's dimensions that are not summed over: of input, and of result."""
    batch = use.params["dimension_numbers"][1][1 if use.first else 0]
    summed = _contracted(use)[1]
    free = [dim for dim in range(other.ndim) if dim not in (*summed, *batch)]
    dims = [*range(len(batch)), *(d for d in range(len(use.shape)) if d not in use.channel_dims)]
    return list(zip([*batch, *free], dims, strict=True))


def rows_for_result(use: Use, numbers: Any) -> Any:
    """Align a number per input row, 1 where shared, with the result."""
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


def in_levels(values: Any, order: int, axes: tuple[int, ...]) -> Any:
    """Return values as sums of signs, with their own factors for each index along ``axes``."""
    rest = [dim for dim in range(values.ndim) if dim not in axes]
    moved = jnp.transpose(values, [*rest, *axes])
    flat = moved.reshape(*moved.shape[: len(rest)], -1)
    betas, signs = levels_of(flat, order, -1, jnp)
    found = jnp.sum(betas * signs, axis=-1).astype(values.dtype).reshape(moved.shape)
    return jnp.transpose(found, np.argsort([*rest, *axes]).tolist())


def _laid(use: Use, numbers: Any) -> Any:
    """Lay out numbers of the weight's rank, 1 where shared, as the weight is."""
    return use.weight.laid_out(jnp.broadcast_to(numbers, use.weight.shape))


def _contracted(use: Use) -> tuple[Sequence[int], Sequence[int]]:
    """Return a dense product's dimensions summed over, of the weight and of the input."""
    left, right = use.params["dimension_numbers"][0]
    return (left, right) if use.first else (right, left)
