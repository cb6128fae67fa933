"""Codebooks by k-means: weights as indices into a few shared values.

The rule it keeps: a codebook is sorted, a weight has the code of the nearest of its values, and
each value is about the mean of the weights that have its code.

    minimise  Σ (w − c[code])²  over c[2^b] and the codes    (Han, Mao and Dally 2016, section 3)

Weights are single numbers, so clusters are intervals, and a round of Lloyd's method over sorted
weights is a search for the midpoints between values and differences of running sums: K log N steps
in place of K·N. The rounds are those of ``scipy.cluster.vq.kmeans2``, which tests hold them
against. They run on at most ``SAMPLE`` weights; of a larger matrix, all take part in the last few.

Rounds only ever lower the error, but where they end depends on where they start. Three starts are
tried, and each codebook keeps what came out best for it:

- linear, values evenly spaced from the least to the largest weight: the choice of Han et al., which
  keeps the few large weights that quantiles forget;
- quantiles, as many weights per value: best where a few weights are far from all others;
- density, values at the quantiles of density^(1/3), the shape of the best codebook of many values
  (Panter and Dite 1951). At 8 bits and normal weights it ends 4 dB above the others.

Dimension letters: O output channels, I inputs, N weights of a codebook, K = 2^bits values, R
codebooks that are fitted side by side, n weights that each of them is fitted to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from maas_sdk.compress.methods.magnitude import magnitude_mask
from maas_sdk.compress.methods.tiles import TILE, Granularity, cells, check_matrix, read
from maas_sdk.errors import ConfigError
from maas_sdk.tensors import Array

__all__ = ["BITS", "SAMPLE", "Clusters", "SparseClusters", "kmeans", "sparse"]

# Bits of a code. One bit is compress.levels' matter; codes of more are no bytes.
BITS: Final = range(2, 9)

# Weights that a codebook is first fitted to.
SAMPLE: Final = 2**16

# Rounds on the sample end earlier, when no weight changes its cluster any more.
_ROUNDS: Final = 200

# Rounds on all weights of a matrix that is larger than the sample.
_LAST_ROUNDS: Final = 2

# Share of a stretch by which the place of a sample moves on: the golden ratio's, so that places
# never fall into step with rows and columns (Weyl's equidistribution).
_GOLDEN: Final = (5**0.5 - 1) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Clusters:
    """A matrix as indices into a codebook, or into one per channel."""

    # uint8 [O, I], below K.
    codes: Array
    # float32 [K], or [O, 1, K] with a codebook per channel; sorted along K. Where there are fewer
    # distinct weights than K the largest is repeated.
    codebook: Array

    def decode(self) -> Array:
        """The matrix that the codes stand for, float32 [O, I]."""
        if self.codebook.ndim == 1:
            return np.asarray(self.codebook[self.codes])
        return np.take_along_axis(self.codebook[:, 0], self.codes.astype(np.intp), axis=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class SparseClusters:
    """A matrix as a mask, with indices into a codebook for the kept weights."""

    # bool [O, I]: where a weight is kept.
    mask: Array
    # uint8 [number of kept weights], in the order of the matrix's elements, rows first.
    codes: Array
    # float32 [K], sorted; zeros if no weight is kept.
    codebook: Array

    def decode(self) -> Array:
        """The matrix that mask and codes stand for, float32 [O, I]."""
        values = np.zeros(self.mask.shape, np.float32)
        values[self.mask] = self.codebook[self.codes]
        return values


def kmeans(w: Any, *, bits: int, granularity: Literal["tensor", "channel"] = "tensor") -> Clusters:
    """Return indices of ``bits`` bits into the codebook that minimises Σ (w − c[code])².

    Args:
        w: float [O, I], finite.
        bits: 2 to 8.
        granularity: one codebook for all, or one per output channel.

    Returns:
        Codes uint8 [O, I] and codebook float32 [K] or [O, 1, K].

    Raises:
        ConfigError: bits or granularity that there are not.
        InputError: not a matrix of finite floats.
    """
    w = check_matrix(w)
    count = _values(bits)
    if granularity not in ("tensor", "channel"):
        raise ConfigError(
            f"granularity: a codebook is for the 'tensor' or for a 'channel', got {granularity!r}; "
            "groups have scales, of compress.grids and compress.nf4",
            granularity=granularity,
        )
    codes = np.empty(w.shape, np.uint8)
    if granularity == "tensor":
        book = _fit_large(w, count, None)
        _encode(w, book[None, None], codes, granularity)
        return Clusters(codes=codes, codebook=book)
    books = np.empty((len(w), 1, count), np.float32)
    if w.shape[1] > SAMPLE:
        for row in range(len(w)):
            books[row] = _fit_large(w[row : row + 1], count, None)
    else:
        for cell in cells(w.shape, granularity):
            ordered = np.sort(read(w, cell.tiles[0])[:, 0], axis=1)
            # Codebooks can be larger than the weights that they are for.
            step = max(1, TILE // count)
            parts = [_fit(ordered[i : i + step], count) for i in range(0, len(ordered), step)]
            books[cell.at[0], 0] = np.concatenate(parts)
    _encode(w, books, codes, granularity)
    return Clusters(codes=codes, codebook=books)


def sparse(w: Any, *, bits: int, sparsity: float | None = None) -> SparseClusters:
    """Prune weights by a mask and share the rest by a codebook.

    Zeros would take a value of the codebook, and bits of a code each (Han, Mao and Dally 2016,
    sections 2 and 3).

    Args:
        w: float [O, I], finite.
        bits: 2 to 8.
        sparsity: share of zeros, 0 ≤ x < 1, made by cutting the smallest weights. None keeps the
            zeros that are there.

    Raises:
        ConfigError: bits or a sparsity that there are not.
        InputError: not a matrix of finite floats.
    """
    w = check_matrix(w)
    count = _values(bits)
    mask = magnitude_mask(w, sparsity)
    codes = np.empty(np.count_nonzero(mask), np.uint8)
    if codes.size == 0:
        return SparseClusters(mask=mask, codes=codes, codebook=np.zeros(count, np.float32))
    book = _fit_large(w, count, mask)
    done = 0
    for values in _kept(w, mask):
        codes[done : done + values.size] = _nearest(values, book)
        done += values.size
    return SparseClusters(mask=mask, codes=codes, codebook=book)


def _values(bits: int) -> int:
    if bits not in BITS:
        raise ConfigError(
            f"bits: a codebook has {BITS[0]} to {BITS[-1]} bits, got {bits!r}; "
            "one bit is compress.levels' matter",
            bits=bits,
        )
    return int(2**bits)


def _kept(w: Array, mask: Array | None) -> Iterator[Array]:
    """Yield the kept weights tile by tile, float32 [n], in order."""
    for cell in cells(w.shape, "tensor"):
        for tile in cell.tiles:
            values = read(w, tile).reshape(-1)
            yield values if mask is None else values[mask[tile.at].reshape(-1)]


def _encode(w: Array, books: Array, codes: Array, granularity: Granularity) -> None:
    """Write the codes of all weights, by the codebooks [1, 1, K] or [O, 1, K] of their groups."""
    for cell in cells(w.shape, granularity):
        for tile in cell.tiles:
            pairs = zip(read(w, tile)[:, 0], books[cell.at], strict=True)
            found = [_nearest(values, book[0]) for values, book in pairs]
            codes[tile.at] = np.reshape(found, tile.shape)


def _nearest(values: Array, book: Array) -> Array:
    """Return the index of the nearest value of a sorted codebook: [n] → uint8 [n]."""
    return np.searchsorted(_midpoints(book), values).astype(np.uint8)


def _midpoints(books: Array) -> Array:
    """Return midpoints of neighbours, [..., K] → [..., K−1], without overflow."""
    return np.asarray(books[..., :-1] / 2 + books[..., 1:] / 2)


def _fit_large(w: Array, count: int, mask: Array | None) -> Array:
    """Fit the codebook [K] of all or masked weights: on a sample first, then on all."""
    distinct = _distinct(_kept(w, mask), count)
    if distinct is not None:
        return _padded(distinct, count)
    kept = w.size if mask is None else int(np.count_nonzero(mask))
    if kept <= SAMPLE:
        return np.asarray(_fit(np.sort(np.concatenate([*_kept(w, mask)]))[None], count)[0])
    # One weight of each of so many equal stretches; more of them where the mask drops some.
    drawn = min(w.size, SAMPLE * w.size // kept, TILE)
    places = np.arange(drawn)
    places = ((places + places * _GOLDEN % 1) * (w.size / drawn)).astype(np.int64)
    row, column = np.divmod(np.minimum(places, w.size - 1), w.shape[1])
    sample = np.asarray(w[row, column], np.float32)
    if mask is not None:
        sample = sample[mask[row, column]]
    book = _fit(np.sort(sample)[None], count)[0]
    for _ in range(_LAST_ROUNDS):
        counts, sums = np.zeros(count), np.zeros(count)
        for values in _kept(w, mask):
            codes = _nearest(values, book)
            counts += np.bincount(codes, minlength=count)
            sums += np.bincount(codes, values, minlength=count)
        book = np.where(counts > 0, sums / np.maximum(counts, 1), book).astype(np.float32)
    return np.asarray(book)


def _distinct(parts: Iterable[Array], count: int) -> Array | None:
    """Return the distinct numbers, sorted, if they are no more than ``count``."""
    found = np.empty(0, np.float32)
    for part in parts:
        found = np.union1d(found, part)
        if found.size > count:
            return None
    return found


def _padded(distinct: Array, count: int) -> Array:
    """Pad a codebook to its full size by repeating the last value."""
    return np.pad(distinct, (0, count - distinct.size), mode="edge").astype(np.float32)


def _fit(ordered: Array, count: int) -> Array:
    """Fit codebooks float32 [R, K] to sorted weights [R, n]: the best of the three starts."""
    ordered = ordered.astype(np.float64)
    best = np.empty((len(ordered), count))
    least = np.full(len(ordered), np.inf)
    for start in (_linear, _quantiles, _by_density):
        books, errors = _lloyd(ordered, start(ordered, count))
        better = errors < least
        best[better], least[better] = books[better], errors[better]
    few = (np.diff(ordered) > 0).sum(axis=1) < count
    for row in np.flatnonzero(few):
        best[row] = _padded(np.unique(ordered[row]), count)
    # Sorted anew, since rounding to float32 may not keep what rounding errors of sums did not.
    return np.sort(best, axis=1).astype(np.float32)


def _linear(ordered: Array, count: int) -> Array:
    share = np.linspace(0, 1, count)
    return ordered[:, :1] * (1 - share) + ordered[:, -1:] * share


def _quantiles(ordered: Array, count: int) -> Array:
    places = (np.arange(count) + 0.5) / count * ordered.shape[1]
    return np.asarray(ordered[:, places.astype(np.intp)])


def _by_density(ordered: Array, count: int) -> Array:
    """Return quantiles of density^(1/3).

    Between quantiles that are d apart the density is as 1 / d, so the integral of its cube root
    grows by d^(2/3).
    """
    edges = min(ordered.shape[1], 4 * count + 1)
    points = ordered[:, np.linspace(0, ordered.shape[1] - 1, edges).astype(np.intp)]
    grown = np.cumsum(np.diff(points) ** (2 / 3), axis=1)
    grown = np.concatenate([np.zeros((len(points), 1)), grown], axis=1)
    share = (np.arange(count) + 0.5) / count
    pairs = zip(grown, points, strict=True)
    return np.stack([np.interp(share * g[-1], g, p) for g, p in pairs])


def _lloyd(ordered: Array, books: Array) -> tuple[Array, Array]:
    """Run rounds of Lloyd's method on each row.

    Args:
        ordered: float64 [R, n], sorted.
        books: float64 [R, K], sorted, within the range of the row.

    Returns:
        The codebooks [R, K], and Σ (w − c[code])² − Σ w² of each row, [R].
    """
    rows, size = ordered.shape
    low = ordered[:, :1]
    width = np.maximum(ordered[:, -1:] - low, np.finfo(np.float64).tiny)
    # One search serves all rows: row r is moved into [2r, 2r + 1].
    moved = ((ordered - low) / width + 2 * np.arange(rows)[:, None]).reshape(-1)
    sums = np.zeros((rows, size + 1))
    np.cumsum(ordered, axis=1, out=sums[:, 1:])

    def clusters(row: Array) -> tuple[Array, Array, Array]:
        """Return for these rows edges [., K+1], counts of weights between, and their sums."""
        places = (_midpoints(books[row]) - low[row]) / width[row] + 2 * row[:, None]
        found = np.searchsorted(moved, places.reshape(-1)).reshape(places.shape)
        edges = np.full((len(row), books.shape[1] + 1), size)
        edges[:, 0] = 0
        edges[:, 1:-1] = np.clip(found - row[:, None] * size, 0, size)
        totals = np.diff(sums.reshape(-1)[edges + row[:, None] * (size + 1)])
        return edges, np.diff(edges), totals

    books = books.copy()
    every = row = np.arange(rows)
    before = np.full((rows, books.shape[1] + 1), -1)
    for _ in range(_ROUNDS):
        edges, counts, totals = clusters(row)
        moves = (edges != before[row]).any(axis=1)
        row, edges, counts, totals = row[moves], edges[moves], counts[moves], totals[moves]
        if not row.size:
            break
        before[row] = edges
        # A value without weights stays where it is.
        books[row] = np.where(counts > 0, totals / np.maximum(counts, 1), books[row])
    _, counts, totals = clusters(every)
    return books, (counts * books**2 - 2 * books * totals).sum(axis=1)
