"""A matrix of weights read in tiles, so that quantizing it takes little memory beside it.

The rule it keeps: whatever the size of a matrix, memory beside it and its result stays under 32 MB.
A tile is at most ``TILE`` elements, which also fits the second-level cache.

Dimension letters: O output channels, I inputs (what is summed over), g inputs of a group. Weights
that share a scale, a codebook or a level are a *group*: the whole matrix, a channel, or g
neighbouring inputs of a channel. A *cell* is a run of whole groups with the tiles that they are
made of: one tile with many groups, or, where a group is larger than a tile, one group in many. A
tile is read *folded*, as [R, G, m]: R × G groups of the cell, of which it holds m weights each, so
that what belongs to a group is found by reducing the last axis and used by broadcasting along it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array

__all__ = ["TILE", "Cell", "Granularity", "Tile", "cells", "check_matrix", "read", "shared_shape"]

# Who shares: "tensor" the whole matrix, "channel" the inputs of a channel, a number so many
# neighbouring inputs of a channel.
Granularity = Literal["tensor", "channel"] | int

# 1 MB of float32; a formula over a tile takes a few times that.
TILE: Final = 2**18


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """A rectangle of the matrix and the shape in which it is read."""

    # Index of the rectangle in the matrix.
    at: tuple[slice, slice]
    # (R, G, m).
    folded: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the rectangle."""
        rows, columns = self.at
        return rows.stop - rows.start, columns.stop - columns.start


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """Whole groups, and the tiles that hold all their weights and no others."""

    # Index of the groups in an array with one entry per group, of ``shared_shape``.
    at: tuple[slice, slice]
    # In the order of the matrix's elements, rows first.
    tiles: Sequence[Tile]

    @property
    def shape(self) -> tuple[int, int]:
        """R and G."""
        rows, groups = self.at
        return rows.stop - rows.start, groups.stop - groups.start


def check_matrix(w: Any) -> Array:
    """Return ``w`` as an array [O, I] of floats, not copied if it is one.

    Raises:
        InputError: another rank, no element, or a dtype that is not of floats.
    """
    matrix: Array = np.asarray(w)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InputError(
            f"weights: expected a matrix [outputs, inputs] with elements, got shape "
            f"{list(matrix.shape)}; reshape a kernel so that what is summed over comes last",
            shape=matrix.shape,
        )
    # ml_dtypes' floats are of kind "V".
    if matrix.dtype.kind != "f" and "float" not in matrix.dtype.name:
        raise InputError(
            f"weights: expected floats, got {matrix.dtype}; convert them with .astype('float32')",
            dtype=str(matrix.dtype),
        )
    return matrix


def shared_shape(shape: tuple[int, int], granularity: Granularity) -> tuple[int, int]:
    """Return the shape of an array with one entry per group: [1, 1], [O, 1] or [O, I/g].

    Raises:
        ConfigError: a name that is none, or a group that does not divide I.
    """
    outputs, inputs = shape
    match granularity:
        case "tensor":
            return 1, 1
        case "channel":
            return outputs, 1
        case int() if not isinstance(granularity, bool) and granularity >= 1:
            if inputs % granularity == 0:
                return outputs, inputs // granularity
            fitting = [g for g in range(min(granularity, inputs), 0, -1) if inputs % g == 0]
            raise ConfigError(
                f"granularity: groups of {granularity} do not divide {inputs} inputs; "
                f"the next smaller one that does is {fitting[0]}, or say 'channel'",
                granularity=granularity,
                inputs=inputs,
            )
    raise ConfigError(
        f"granularity: expected 'tensor', 'channel' or a number of inputs ≥ 1, got {granularity!r}",
        granularity=granularity,
    )


def cells(shape: tuple[int, int], granularity: Granularity) -> Iterator[Cell]:
    """Yield all groups of a matrix, in order.

    Args:
        shape: O and I.
        granularity: who shares.

    Raises:
        ConfigError: as ``shared_shape``.
    """
    outputs, inputs = shape
    groups = shared_shape(shape, granularity)[1]
    if granularity == "tensor":
        tiles = [Tile(at=at, folded=(1, 1, _size(at))) for at in _rectangles(shape, 1)]
        yield Cell(at=(slice(0, 1), slice(0, 1)), tiles=tiles)
        return
    group = inputs // groups
    if group > TILE:
        for row in range(outputs):
            for index in range(groups):
                tiles = [
                    Tile(
                        at=(slice(row, row + 1), slice(start, stop)),
                        folded=(1, 1, stop - start),
                    )
                    for start, stop in _steps(index * group, (index + 1) * group, TILE)
                ]
                yield Cell(at=(slice(row, row + 1), slice(index, index + 1)), tiles=tiles)
        return
    for rows, columns in _rectangles(shape, group):
        part = slice(columns.start // group, columns.stop // group)
        folded = rows.stop - rows.start, part.stop - part.start, group
        yield Cell(at=(rows, part), tiles=[Tile(at=(rows, columns), folded=folded)])


def read(w: Array, tile: Tile) -> Array:
    """Return the weights of a tile, folded: float32 [R, G, m].

    Raises:
        InputError: a weight is NaN or infinite; the message says the first such place.
    """
    # A turned matrix is turned back here, once, and not by all that is done to the tile.
    part = np.ascontiguousarray(w[tile.at], np.float32)
    finite = np.isfinite(part)
    if not finite.all():
        row, column = (int(i) for i in np.argwhere(~finite)[0])
        rows, columns = tile.at
        raise InputError(
            f"weights: expected finite numbers, got {part[row, column]} at output "
            f"{rows.start + row}, input {columns.start + column}; "
            "a model that holds such weights is broken: restore an earlier checkpoint",
            output=rows.start + row,
            input=columns.start + column,
        )
    return part.reshape(tile.folded)


def _rectangles(shape: tuple[int, int], step: int) -> Iterator[tuple[slice, slice]]:
    """Yield whole rows where one fits a tile, else pieces of a row, multiples of ``step``."""
    outputs, inputs = shape
    if inputs <= TILE:
        for start, stop in _steps(0, outputs, TILE // inputs):
            yield slice(start, stop), slice(0, inputs)
        return
    for row in range(outputs):
        for start, stop in _steps(0, inputs, TILE // step * step):
            yield slice(row, row + 1), slice(start, stop)


def _steps(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    for begin in range(start, stop, step):
        yield begin, min(begin + step, stop)


def _size(at: tuple[slice, slice]) -> int:
    rows, columns = at
    return int((rows.stop - rows.start) * (columns.stop - columns.start))
