"""A weight of any shape viewed as a matrix: which axes are summed over, and which are outputs.

The rule it keeps: quantization is about sums of products, so every weight is seen as ``[O, I]``, a
row per output channel and a column per input, whatever its own axes are: dense kernels
``[in, out]``, convolutions ``[height, width, in, out]``, attention projections ``[D, heads,
head_dim]``, embedding tables ``[V, D]`` (a row is put out whole, so V counts as O and D as I).

Dimension letters: O output channels, I inputs, S stacked layers of a scan, g inputs of a group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from maas_sdk.tensors import Array

__all__ = ["MatrixView"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixView:
    """Input and output axes of one weight, apart from those of a stack of layers.

    ``shape`` and axes are those of one layer: a stacked weight ``[S, …]`` has ``stack`` = S, and
    its layers are looked at one by one.
    """

    shape: tuple[int, ...]
    # Axes of the result, ascending.
    out_axes: tuple[int, ...]
    # Axes that are summed over, ascending.
    in_axes: tuple[int, ...]
    # S, or None for a weight that is no stack.
    stack: int | None = None

    def __post_init__(self) -> None:
        assert sorted(self.out_axes + self.in_axes) == list(range(len(self.shape)))

    @property
    def channels(self) -> int:
        """Number O of output channels."""
        return math.prod(self.shape[axis] for axis in self.out_axes)

    @property
    def inputs(self) -> int:
        """Number I of inputs."""
        return math.prod(self.shape[axis] for axis in self.in_axes)

    def stored(self) -> tuple[MatrixView, tuple[int, ...]]:
        """The layout with outputs before inputs, and this layout's axes in that order."""
        order = self.out_axes + self.in_axes
        cut = len(self.out_axes)
        return (
            MatrixView(
                shape=tuple(self.shape[axis] for axis in order),
                out_axes=tuple(range(cut)),
                in_axes=tuple(range(cut, len(order))),
                stack=self.stack,
            ),
            order,
        )

    def group(self, wanted: int) -> int | None:
        """The largest g ≤ ``wanted`` that divides the last summed axis; None where all are tiny.

        Groups are neighbours along that axis, so that a scale per group lies as a tensor of the
        weight's rank. Of fewer than a quarter of what was wanted the scales would outweigh the
        codes: there one scale for the whole channel is better.
        """
        last = self.shape[self.in_axes[-1]] if self.in_axes else 1
        fitting = max(g for g in range(1, min(wanted, last) + 1) if last % g == 0)
        return fitting if fitting * 4 >= wanted else None

    def layers(self, weight: Array) -> list[Array]:
        """Return the weight's layers, ``shape`` each; one for a weight that is no stack."""
        return [weight] if self.stack is None else list(weight)

    def to_matrix(self, layer: Array) -> Array:
        """Convert one layer, ``shape`` → [O, I], a view where that is possible."""
        return layer.transpose(self.out_axes + self.in_axes).reshape(self.channels, self.inputs)

    def from_matrix(self, matrix: Array) -> Array:
        """Convert [O, I] or scales' [O | 1, I/g | 1] to an array of the weight's rank.

        [O, I] gives ``shape``; I/g divides the last summed axis by g; a 1 shares one number.
        """
        rows, columns = matrix.shape
        out = [self.shape[a] for a in self.out_axes] if rows != 1 else [1] * len(self.out_axes)
        inner = [self.shape[a] for a in self.in_axes]
        if columns == 1:
            inner = [1] * len(inner)
        elif inner:
            inner[-1] = inner[-1] * columns // self.inputs
        inverse = np.argsort(self.out_axes + self.in_axes)
        return np.ascontiguousarray(matrix.reshape(*out, *inner).transpose(inverse))

    def from_levels(self, matrix: Array) -> Array:
        """Convert [O | 1, I/g | 1, M] to an array of the weight's rank and one more."""
        parts = [self.from_matrix(matrix[..., index]) for index in range(matrix.shape[-1])]
        return np.stack(parts, axis=-1)
