"""NormalFloat: four-bit codes whose sixteen levels fit normally distributed weights.

The rule it keeps: the levels are computed, not copied, zero and ±1 are among them, and a weight has
the code of the nearest level of its group.

    w ≈ scale · level[code],  scale = max|w| of the group

The levels are quantiles of the normal distribution, 8 on the positive side, zero, and 7 on the
negative, each side's evenly spaced in probability between 1/2 and 1 − ε, scaled so that the
outermost are ±1 (Dettmers et al. 2023, QLoRA, section 3 and appendix E):

    Φ⁻¹(p) / Φ⁻¹(1 − ε),  ε = (1/30 + 1/32) / 2,  between 1/2 and the end of a side

Dimension letters: O output channels, I inputs, g inputs of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from scipy.special import ndtri  # type: ignore[import-untyped]

from maas_sdk.compress.methods.tiles import Granularity, cells, check_matrix, read, shared_shape
from maas_sdk.tensors import Array

__all__ = ["GROUP", "NormalFloats", "levels", "nf4"]

# Inputs that share a scale in QLoRA.
GROUP: Final = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class NormalFloats:
    """A matrix as scale × level[code]."""

    # uint8 [O, I], 0 to 15.
    codes: Array
    # float32 [16], ascending, from −1 to 1.
    levels: Array
    # float32 [O, I/g], [O, 1] or [1, 1], positive; 1 for a group of zeros.
    scale: Array

    def decode(self) -> Array:
        """The matrix that the codes stand for, float32 [O, I]."""
        values = self.levels[self.codes]
        folded = values.reshape(values.shape[0], self.scale.shape[1], -1)
        np.multiply(folded, self.scale[:, :, None], out=folded)
        return np.asarray(values)


@lru_cache(maxsize=1)
def _levels() -> tuple[float, ...]:
    # The mean of what would give 15 and 16 quantiles their due place.
    end = 1 - (1 / 30 + 1 / 32) / 2
    positive = ndtri(np.linspace(0.5, end, 9)[1:])
    negative = -ndtri(np.linspace(0.5, end, 8)[1:])
    every = np.concatenate([negative[::-1], [0.0], positive])
    return tuple(every / every.max())


def levels() -> Array:
    """Return the sixteen levels, float32 [16], ascending."""
    return np.array(_levels(), np.float32)


def nf4(w: Any, *, granularity: Granularity = GROUP) -> NormalFloats:
    """Return codes of the nearest levels, with the largest |w| of each group as its scale.

    Args:
        w: float [O, I], finite.
        granularity: who shares a scale: "tensor", "channel" or g neighbouring inputs.

    Returns:
        Codes uint8 [O, I] of 4 bits, levels float32 [16], scale [1, 1], [O, 1] or [O, I/g].

    Raises:
        ConfigError: a granularity that there is not, or that does not divide I.
        InputError: not a matrix of finite floats.
    """
    w = check_matrix(w)
    table = levels()
    between = (table[:-1] + table[1:]) / 2
    scale = np.zeros(shared_shape(w.shape, granularity), np.float32)
    codes = np.empty(w.shape, np.uint8)
    for cell in cells(w.shape, granularity):
        part = scale[cell.at]
        for tile in cell.tiles:
            np.maximum(part, np.abs(read(w, tile)).max(-1), out=part)
        # XLA takes subnormal numbers for zero.
        part[part < np.finfo(np.float32).tiny] = 1
        for tile in cell.tiles:
            found = np.searchsorted(between, read(w, tile) / part[..., None])
            codes[tile.at] = found.reshape(tile.shape)
    return NormalFloats(codes=codes, levels=table, scale=scale)
