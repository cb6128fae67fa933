"""Range of an activation's grid, chosen from its values on calibration rows.

The rule it keeps: statistics of batches merge into those of all rows exactly, in any order, however
the range grows on the way. Bins are as wide as a power of two asks for, so a range that grows
doubles, and two bins fall into one.

    bins of |x|:  count[j] counts  j·d ≤ |x| < (j+1)·d,  d = 2^k / 2048,  2^k > max|x|

Limits are symmetric, as the grids are, so only |x| is counted. Methods (Wu et al. 2020, Integer
Quantization for Deep Learning Inference, section 3.3, compares them):

    minmax       max|x|
    percentile   that which so many percent of |x| do not exceed
    entropy      least KL divergence of the quantized distribution from the clipped one, over bins
                 (Migacz 2017, 8-bit Inference with TensorRT)
    mse          least squared error of the clipped grid, over the histogram

Dimension letters: L levels of |x| above zero and zero itself, 2^(bits−1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from maas_sdk.compress.methods.grids import check_bits
from maas_sdk.compress.methods.tiles import TILE
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array

__all__ = ["BINS", "METHODS", "Histogram", "choose", "histogram"]

# As TensorRT's entropy calibration takes; 16 bins to a step of 8 bits.
BINS: Final = 2048

# Points of a bin that stand for what fell into it, evenly spaced, where errors are added up.
_POINTS: Final = 8

# Limits that "mse" tries, in equal ratios from max|x| down to its 128th part.
_LIMITS: Final = 2.0 ** np.linspace(0, -7, 141)

# No range lies below: XLA takes smaller numbers for zero.
_LEAST_EXPONENT: Final = -126


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """Distribution of an activation's values.

    Invariants: all numbers are finite; low ≤ high; bins reach from 0 to ``span``.
    """

    # int64 [2048], numbers per bin of |x|.
    counts: Array
    # The least and the largest x.
    low: float
    high: float
    # Rows of the batches.
    rows: int

    @property
    def limit(self) -> float:
        """Largest magnitude, max|x|."""
        return max(-self.low, self.high)

    @property
    def span(self) -> float:
        """End of the last bin: the least power of two above ``limit``."""
        return _span(self.limit)

    @property
    def width(self) -> float:
        """Width of a bin, in units of x."""
        return self.span / BINS

    def merge(self, other: Histogram) -> Histogram:
        """Return the histogram of the rows of both."""
        span = max(self.span, other.span)
        return Histogram(
            counts=_widened(self, span) + _widened(other, span),
            low=min(self.low, other.low),
            high=max(self.high, other.high),
            rows=self.rows + other.rows,
        )


def histogram(x: Any) -> Histogram:
    """Return the histogram of one batch.

    Args:
        x: float [B, …], B rows.

    Raises:
        InputError: no numbers, or numbers that are not finite.
    """
    x = np.asarray(x)
    if x.ndim == 0 or x.size == 0:
        raise InputError(
            f"activations: expected a batch of rows, got shape {list(x.shape)}; calibrate with at "
            "least one row",
            shape=x.shape,
        )
    flat = x.reshape(-1)
    parts = [slice(start, start + TILE) for start in range(0, flat.size, TILE)]
    low, high = math.inf, -math.inf
    for part in parts:
        values = np.asarray(flat[part], np.float32)
        if not np.isfinite(values).all():
            wrong = int(np.flatnonzero(~np.isfinite(values))[0])
            raise InputError(
                f"activations: expected finite numbers, got {values[wrong]} in row "
                f"{(part.start + wrong) * len(x) // flat.size}; look for a broken row, or for "
                "float16 that overflows",
                row=(part.start + wrong) * len(x) // flat.size,
            )
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    per_unit = BINS / _span(max(-low, high))
    counts = np.zeros(BINS, np.int64)
    for part in parts:
        # Exact: a product with a power of two, cut to a whole number. The float64 holds the
        # smallest floats times the largest factor.
        places = np.abs(flat[part].astype(np.float64)) * per_unit
        counts += np.bincount(places.astype(np.int64), minlength=BINS)
    return Histogram(counts=counts, low=low, high=high, rows=len(x))


def choose(
    histogram: Histogram, method: str = "minmax", *, bits: int = 8, percentile: float = 99.99
) -> float:
    """Choose the limit of a symmetric grid, which clips beyond ±limit; scale is limit / (L − 1).

    Args:
        histogram: of the activation, over all calibration rows.
        method: a key of ``METHODS``.
        bits: of the grid: 2, 3, 4 or 8. For "entropy" and "mse".
        percentile: of |x| that are not clipped, 0 < p ≤ 100. For "percentile".

    Returns:
        The limit, positive, in units of x, no larger than max|x|.

    Raises:
        ConfigError: method, bits or percentile that there are not.
        InputError: no rows; nothing but zeros; with another method than "minmax", nothing but one
            value.
    """
    if method not in METHODS:
        raise ConfigError(
            f"method: expected one of {', '.join(METHODS)}, got {method!r}", method=method
        )
    levels = check_bits(bits) + 1
    if not 0 < percentile <= 100:
        raise ConfigError(f"percentile: expected 0 < p ≤ 100, got {percentile}", p=percentile)
    if not histogram.counts.any():
        raise InputError("range: the histogram holds no numbers; calibrate with at least one row")
    if histogram.limit < 2.0**_LEAST_EXPONENT:
        raise InputError(
            f"range: all {histogram.counts.sum()} numbers are zero, so there is no range; "
            "calibrate with rows that reach this layer, or keep its activations in float"
        )
    if histogram.low == histogram.high and method != "minmax":
        raise InputError(
            f"range: all {histogram.counts.sum()} numbers are {histogram.high:g}, which says "
            f"nothing about a range; method {method!r} needs different ones: calibrate with other "
            "rows, take 'minmax', or keep the activations in float",
            value=histogram.high,
        )
    return min(METHODS[method](histogram, levels, percentile), histogram.limit)


def _span(limit: float) -> float:
    """Return the least power of two above a limit."""
    exponent = math.frexp(limit)[1] if limit > 0 else _LEAST_EXPONENT
    return math.ldexp(1.0, max(exponent, _LEAST_EXPONENT))


def _widened(histogram: Histogram, span: float) -> Array:
    """Return counts with bins that reach to a larger span: int64 [2048]."""
    # The span's ratio is a power of two; from 2048 on, all falls into the first bin.
    merged = int(min(span / histogram.span, BINS))
    counts = np.zeros_like(histogram.counts)
    counts[: BINS // merged] = histogram.counts.reshape(-1, merged).sum(axis=1)
    return counts


def _whole(histogram: Histogram, levels: int, percentile: float) -> float:
    return histogram.limit


def _percentile(histogram: Histogram, levels: int, percentile: float) -> float:
    upto = np.cumsum(histogram.counts)
    wanted = upto[-1] * percentile / 100
    place = int(np.searchsorted(upto, wanted))
    inside = (wanted - (upto[place] - histogram.counts[place])) / histogram.counts[place]
    return float((place + inside) * histogram.width)


def _entropy(histogram: Histogram, levels: int, percentile: float) -> float:
    """Return the limit of the first bins with the least divergence, in units of x.

    Of every number of bins i from L on: P is the first i counts, with all that is beyond added to
    the last; Q the first i counts in L equal parts, each spread evenly over its bins that are not
    empty. Zeros, which any grid holds, would drown the rest (after a relu they are half of all), so
    the first bin counts as its neighbour.
    """
    counts = histogram.counts.astype(np.float64)
    counts[0] = counts[1]
    used = math.floor(histogram.limit / histogram.width) + 1
    beyond = counts[::-1].cumsum()[::-1]
    best, least = used, math.inf
    for size in range(min(levels, used), used + 1):
        kept = counts[:size]
        total = kept.sum()
        if total == 0:
            continue
        part = np.arange(size) * levels // size
        filled = kept > 0
        spread = np.bincount(part, kept) / np.maximum(np.bincount(part, filled), 1)
        clipped = kept.copy()
        clipped[-1] += beyond[size] if size < BINS else 0
        if clipped[-1] > 0 and not filled[-1]:
            # Q has nothing where P has: an infinite divergence.
            continue
        p = clipped[filled] / clipped.sum()
        q = spread[part][filled] / total
        divergence = float((p * np.log(p / q)).sum())
        if divergence < least:
            best, least = size, divergence
    return best * histogram.width


def _least_squares(histogram: Histogram, levels: int, percentile: float) -> float:
    filled = np.flatnonzero(histogram.counts)
    points = (filled[:, None] + (np.arange(_POINTS) + 0.5) / _POINTS) * histogram.width
    counts = histogram.counts[filled, None]

    def error(limit: float) -> float:
        scale = limit / (levels - 1)
        off = np.minimum(np.rint(points / scale), levels - 1) * scale - points
        return float((counts * off**2).sum())

    limits = histogram.limit * _LIMITS
    return float(limits[np.argmin([error(limit) for limit in limits])])


METHODS: Final[dict[str, Callable[[Histogram, int, float], float]]] = {
    "minmax": _whole,
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _least_squares,
}
