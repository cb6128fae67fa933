"""Magnitude pruning: the mask of a matrix's large weights.

The rule it keeps: exactly the requested share of the weights is pruned, ties included, and finding
them takes no copy of the matrix.

The weights with the smallest |w| go (Han et al. 2015, Learning both weights and connections;
Han, Mao and Dally 2016, section 2). The threshold is found digit by digit: non-negative float32
numbers are in the order of their bits read as whole numbers, so one pass counts the upper 16 bits
of |w| and another, among those that share the threshold's, the lower 16.

Dimension letters: O output channels, I inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from maas_sdk.compress.methods.tiles import Tile, cells, check_matrix, read
from maas_sdk.errors import ConfigError
from maas_sdk.tensors import Array

__all__ = ["magnitude_mask"]

_DIGIT: Final = 16


def magnitude_mask(w: Any, sparsity: float | None = None) -> Array:
    """Return a mask, True where a weight stays: bool [O, I].

    Args:
        w: float [O, I], finite.
        sparsity: share of zeros, 0 ≤ x < 1: the round(x·O·I) weights of the smallest |w| go, of
            equal ones those that come first. Weights that are zero already are among them. None
            cuts nothing but zeros.

    Raises:
        ConfigError: a share that is none.
        InputError: not a matrix of finite floats.
    """
    w = check_matrix(w)
    if sparsity is not None and not 0 <= sparsity < 1:
        raise ConfigError(
            f"sparsity: expected a share of zeros 0 ≤ x < 1, or None to keep what is not zero, "
            f"got {sparsity}",
            sparsity=sparsity,
        )
    mask = np.empty(w.shape, np.bool_)
    tiles = [tile for cell in cells(w.shape, "tensor") for tile in cell.tiles]
    if sparsity is None:
        for tile in tiles:
            mask[tile.at] = (read(w, tile) != 0).reshape(tile.shape)
        return mask
    cut = round(sparsity * w.size)
    upper, below = _digit(cut, (bits >> _DIGIT for bits in _magnitudes(w, tiles)))
    lower, ties = _digit(
        cut - below,
        (bits[bits >> _DIGIT == upper] & (2**_DIGIT - 1) for bits in _magnitudes(w, tiles)),
    )
    threshold = upper << _DIGIT | lower
    # How many weights of exactly this magnitude go.
    ties = cut - below - ties
    for tile, bits in zip(tiles, _magnitudes(w, tiles), strict=True):
        kept = bits >= threshold
        equal = np.flatnonzero(bits == threshold)[:ties]
        kept[equal] = False
        ties -= equal.size
        mask[tile.at] = kept.reshape(tile.shape)
    return mask


def _magnitudes(w: Array, tiles: list[Tile]) -> Iterator[Array]:
    """Yield tile by tile the bits of |w| as whole numbers, uint32 [n]."""
    for tile in tiles:
        yield np.abs(read(w, tile)).reshape(-1).view(np.uint32)


def _digit(rank: int, parts: Iterator[Array]) -> tuple[int, int]:
    """Return the digit of the number of this rank, and the count of numbers with a smaller one."""
    counts = np.zeros(2**_DIGIT, np.int64)
    for part in parts:
        counts += np.bincount(part, minlength=2**_DIGIT)
    upto = np.cumsum(counts)
    # Where every number has a smaller rank, as when all weights go, the digit is the largest.
    digit = min(int(np.searchsorted(upto, rank, side="right")), 2**_DIGIT - 1)
    return digit, int(upto[digit] - counts[digit])
