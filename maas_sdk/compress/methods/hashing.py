"""HashedNets: a matrix of K numbers, each shared by the weights whose indices hash to it.

The rule it keeps: a weight's bucket and sign follow from its index alone, by the function that also
decodes bundles. Only the K numbers and a seed are stored.

    w[i] ≈ ξ(i) · c[h(i)]                      (Chen et al. 2015, section 4, equations 7 and 8)
    c[k] = mean of ξ(i) · w[i] over h(i) = k   (least squares, as ξ is ±1)

Of weights that were trained without it, little is left: N / K of them share one number, and with
as many different ones the signal-to-noise ratio is K / N of the energy. It is meant as a start for
training on, where the shared numbers are what is trained.

Dimension letters: O output channels, I inputs, N = O · I weights, K buckets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from maas_sdk.bundle.encoding.decode import hash_buckets
from maas_sdk.compress.methods.tiles import Tile, cells, check_matrix, read
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array

__all__ = ["Hashed", "hashed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hashed:
    """A matrix as shared numbers, assigned by ``bundle.encoding.decode.hash_buckets``."""

    # float32 [K]; 0 where no weight is.
    buckets: Array
    seed: int
    # O and I.
    shape: tuple[int, int]

    def decode(self) -> Array:
        """The matrix that the buckets stand for, float32 [O, I]."""
        values = np.empty(self.shape, np.float32)
        for tile, where, sign in _places(self.shape, self.buckets.size, self.seed):
            values[tile.at] = (self.buckets[where] * sign).reshape(tile.shape)
        return values


def hashed(w: Any, *, buckets: int, seed: int = 0) -> Hashed:
    """Return the K numbers that minimise Σ (w[i] − ξ(i) · c[h(i)])².

    A weight's place i is its index in the matrix, rows first: hand in the matrix in the layout in
    which the tensor will be decoded.

    Args:
        w: float [O, I], finite, fewer than 2^32 weights.
        buckets: K, 1 to 2^31 − 1.
        seed: 0 to 2^32 − 1; another one shares in another way.

    Raises:
        ConfigError: buckets or a seed beyond their range.
        InputError: not a matrix of finite floats, or too large a one.
    """
    w = check_matrix(w)
    if not 1 <= buckets < 2**31:
        raise ConfigError(
            f"buckets: expected 1 to 2^31 - 1, got {buckets}; a tenth of the weights is usual",
            buckets=buckets,
        )
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed: expected 0 to 2^32 - 1, got {seed}", seed=seed)
    if w.size >= 2**32:
        raise InputError(
            f"weights: places are hashed as 32-bit numbers, and {w.size} weights have more; split "
            "the matrix, or choose another scheme for it",
            size=w.size,
        )
    sums, counts = np.zeros(buckets), np.zeros(buckets, np.int64)
    for tile, where, sign in _places(w.shape, buckets, seed):
        # In the very dtypes of the sums: numpy's fast way, 20 times that of others.
        index = where.astype(np.intp)
        np.add.at(sums, index, (read(w, tile).reshape(-1) * sign).astype(np.float64))
        np.add.at(counts, index, 1)
    means = sums / np.maximum(counts, 1)
    return Hashed(buckets=means.astype(np.float32), seed=seed, shape=w.shape)


def _places(shape: tuple[int, int], buckets: int, seed: int) -> Iterator[tuple[Tile, Array, Array]]:
    """Yield tile by tile the buckets of its weights, and their signs ±1: [n] each."""
    (cell,) = cells(shape, "tensor")
    for tile in cell.tiles:
        rows, columns = tile.at
        start = rows.start * shape[1] + columns.start
        # A tile is whole rows or a piece of one: neighbours in the flat order either way.
        index = np.arange(start, start + tile.shape[0] * tile.shape[1], dtype=np.uint32)
        where, sign = hash_buckets(index, buckets, seed)
        yield tile, where, np.where(sign == 0, np.float32(1), np.float32(-1))
