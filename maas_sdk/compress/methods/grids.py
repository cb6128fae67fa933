"""Uniform grids: weights as integers or float8, times a scale.

The rule it keeps: a weight is at most half a step from its decoded value, unless its group's range
was clipped on purpose, and zero stays zero. All grids are symmetric around zero, so that a product
of codes needs no correction for an offset.

    integers      q = clip(round(w / s), −Q, Q),  Q = 2^(b−1) − 1,  s = max|w| / Q
    float8        q = float8(w / s),  s = max|w| / (largest float8)
    fixed point   as integers, s = 2^−n: Qm.n with b = 1 + m + n

Ties round to even, as numpy and XLA do. The code −2^(b−1) is not used (Jacob et al. 2018, section
3; Wu et al. 2020, section 3.1): with it, the grid would reach further down than up.

Dimension letters: O output channels, I inputs, g inputs of a group, b bits of a code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np

from maas_sdk.bundle.files.weights import aligned_empty
from maas_sdk.compress.methods.tiles import (
    Cell,
    Granularity,
    cells,
    check_matrix,
    read,
    shared_shape,
)
from maas_sdk.errors import ConfigError
from maas_sdk.tensors import Array, dtype_from_name

__all__ = [
    "BITS",
    "FLOAT8",
    "Clip",
    "Codes",
    "check_bits",
    "fixed_point",
    "float8",
    "largest",
    "scales",
    "symmetric",
]

# How the range of a group is found: all of it, or the part with the least squared error.
Clip = Literal["max", "mse"]

# Bits of a code. 5, 6 and 7 take the place of 8 and are less exact.
BITS: Final = (2, 3, 4, 8)

# e4m3fn for weights and activations, e5m2 for what has a wide range (Micikevicius et al. 2022).
FLOAT8: Final = ("float8_e4m3fn", "float8_e5m2")

# Shares of the range that clip="mse" tries, by bits. Where codes are few the best range of normal
# weights is a small part of all: 1.2 of some 3.5 standard deviations at 2 bits (Max 1960, table I).
_SHARES: Final = {
    bits: np.linspace(1.0, end, round((1.0 - end) / 0.02) + 1, dtype=np.float32)
    for bits, end in ((2, 0.2), (3, 0.3), (4, 0.5), (8, 0.5))
}

# Powers of two below the one that holds all, that fixed_point(clip="mse") tries.
_SHIFTS: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Codes:
    """A matrix as codes × scale.

    Invariants: scales are positive and finite; a group of zeros has scale 1 and codes 0.
    """

    # int8 or float8 [O, I].
    codes: Array
    # float32 [O, I/g], [O, 1] or [1, 1].
    scale: Array

    def decode(self) -> Array:
        """The matrix that the codes stand for, float32 [O, I]."""
        values: Array = self.codes.astype(np.float32)
        shared = self.scale[:, :, None]
        folded = values.reshape(*_spread(self.scale.shape, values.shape))
        np.multiply(folded, shared, out=folded)
        return values


def symmetric(
    w: Any, *, bits: int, granularity: Granularity = "channel", clip: Clip = "max"
) -> Codes:
    """Quantize to integers of ``bits`` bits, round(w / s), s = max|w| / (2^(bits−1) − 1).

    Args:
        w: float [O, I], finite.
        bits: 2, 3, 4 or 8.
        granularity: who shares a scale: "tensor", "channel" or g neighbouring inputs.
        clip: "max" keeps the whole range; "mse" takes, for every scale, the share of it (1.0, 0.98,
            … down to 0.5, at 3 and 2 bits to 0.3 and 0.2) that minimises Σ (w − s·q)²
            (Banner, Nahshan and Soudry 2019, section 3, searched instead of solved).

    Returns:
        Codes int8 [O, I] and scale [1, 1], [O, 1] or [O, I/g].

    Raises:
        ConfigError: bits, granularity or clip that there are not.
        InputError: not a matrix of finite floats.
    """
    w = check_matrix(w)
    scale = scales(w, bits=bits, granularity=granularity, clip=clip)
    codes = aligned_empty(np.dtype(np.int8), w.shape)
    for cell in cells(w.shape, granularity):
        _encode(w, cell, scale, check_bits(bits), codes)
    return Codes(codes=codes, scale=scale)


def scales(w: Any, *, bits: int, granularity: Granularity = "channel", clip: Clip = "max") -> Array:
    """Return the scales of ``symmetric``: float32 [1, 1], [O, 1] or [O, I/g]; raises the same."""
    w = check_matrix(w)
    check_bits(bits)
    choose = _CLIPS.get(clip)
    if choose is None:
        raise ConfigError(f"clip: expected one of {', '.join(_CLIPS)}, got {clip!r}", clip=clip)
    scale = np.empty(shared_shape(w.shape, granularity), np.float32)
    for cell in cells(w.shape, granularity):
        scale[cell.at] = choose(w, cell, bits)
    return scale


def float8(w: Any, granularity: Granularity = "channel", dtype: str = "float8_e4m3fn") -> Codes:
    """Quantize to float8 numbers of w / s, s = max|w| / (largest number of the dtype).

    With p bits of mantissa a weight keeps a relative error of 2^−(p+1) (e4m3fn: 1/16) down to the
    dtype's subnormals (Micikevicius et al. 2022, FP8 Formats for Deep Learning, section 3).

    Args:
        w: float [O, I], finite.
        granularity: who shares a scale: "tensor", "channel" or g neighbouring inputs.
        dtype: a name of ``FLOAT8``.

    Returns:
        Codes float8 [O, I] and scale [1, 1], [O, 1] or [O, I/g].

    Raises:
        ConfigError: a dtype or granularity that there is not.
        InputError: not a matrix of finite floats.
    """
    w = check_matrix(w)
    top = largest(dtype)
    scale = np.empty(shared_shape(w.shape, granularity), np.float32)
    codes = aligned_empty(dtype_from_name(dtype), w.shape)
    for cell in cells(w.shape, granularity):
        scale[cell.at] = _positive(_absmax(w, cell) / np.float32(top))
        for tile in cell.tiles:
            values = read(w, tile) / scale[cell.at][..., None]
            # The cast makes NaN of what is over the top, be it by a rounding of the quotient.
            np.clip(values, -top, top, out=values)
            codes[tile.at] = values.reshape(tile.shape).astype(codes.dtype)
    return Codes(codes=codes, scale=scale)


def fixed_point(
    w: Any,
    *,
    bits: int,
    integer_bits: int | None = None,
    granularity: Granularity = "tensor",
    clip: Clip = "max",
) -> Codes:
    """Quantize to fixed point Qm.n: sign, m integer, n fractional bits; value = code · 2^−n.

    Dynamic fixed point (Courbariaux, Bengio and David 2014, section 5): each group has its own
    place of the point, here found once from the weights. m may be negative (all weights are
    small) or over b − 1 (they are large). "mse" gives up range for resolution where the error says
    so, as Lin, Talathi and Annapureddy (2016, section 3) do by the signal-to-noise ratio.

    Args:
        w: float [O, I], finite.
        bits: b = 1 + m + n, one of 2, 3, 4, 8.
        integer_bits: m; what is outside ±(2^m − 2^−n) is clipped. None finds it.
        granularity: who shares m.
        clip: "max" takes the smallest m that holds max|w| ≤ 2^m − 2^−n; "mse" the one of it and
            the four below with the least Σ (w − s·q)². Without a meaning where m is given.

    Returns:
        Codes int8 [O, I] and scales, powers of two: m = b − 1 + log2(scale).

    Raises:
        ConfigError: bits, granularity or clip that there are not; an m beyond ±64.
        InputError: not a matrix of finite floats.
    """
    w = check_matrix(w)
    top = check_bits(bits)
    if clip not in _CLIPS:
        raise ConfigError(f"clip: expected one of {', '.join(_CLIPS)}, got {clip!r}", clip=clip)
    if integer_bits is not None and not -64 <= integer_bits <= 64:
        raise ConfigError(
            f"integer_bits: expected -64 to 64, got {integer_bits}; None finds the place of the "
            "point from the weights",
            integer_bits=integer_bits,
        )
    scale = np.empty(shared_shape(w.shape, granularity), np.float32)
    codes = aligned_empty(np.dtype(np.int8), w.shape)
    for cell in cells(w.shape, granularity):
        if integer_bits is not None:
            scale[cell.at] = np.float32(2.0) ** (integer_bits - (bits - 1))
        else:
            exact = _positive(_absmax(w, cell) / np.float32(top))
            # frexp: exact = mantissa · 2^exponent with 0.5 ≤ mantissa < 1.
            mantissa, exponent = np.frexp(exact)
            exponent = exponent - (mantissa == 0.5)
            tried = range(_SHIFTS + 1 if clip == "mse" else 1)
            powers = np.stack([np.ldexp(np.float32(1), exponent - shift) for shift in tried])
            scale[cell.at] = _least_error(w, cell, powers, top)
        _encode(w, cell, scale, top, codes)
    return Codes(codes=codes, scale=scale)


def check_bits(bits: int) -> int:
    """Return the largest code of so many bits, 2^(bits−1) − 1.

    Raises:
        ConfigError: ``bits`` is not in ``BITS``.
    """
    if bits not in BITS:
        raise ConfigError(
            f"bits: expected one of {', '.join(map(str, BITS))}, got {bits!r}; "
            "codebooks have 2 to 8 bits, sign levels 1 and 2",
            bits=bits,
        )
    return int(2 ** (bits - 1) - 1)


@lru_cache(maxsize=len(FLOAT8))
def largest(dtype: str) -> float:
    """Return the largest finite number of a float8 dtype: 448 of e4m3fn, 57344 of e5m2.

    Raises:
        ConfigError: ``dtype`` is not in ``FLOAT8``.
    """
    if dtype not in FLOAT8:
        raise ConfigError(f"dtype: expected one of {', '.join(FLOAT8)}, got {dtype!r}", dtype=dtype)
    every = np.arange(256, dtype=np.uint8).view(dtype_from_name(dtype)).astype(np.float32)
    return float(every[np.isfinite(every)].max())


def _absmax(w: Array, cell: Cell) -> Array:
    """Return max|w| of every group of a cell: float32 [R, G]."""
    found = np.zeros(cell.shape, np.float32)
    for tile in cell.tiles:
        values = read(w, tile)
        np.maximum(found, np.maximum(values.max(-1), -values.min(-1)), out=found)
    return found


def _positive(scale: Array) -> Array:
    """Replace scales that are zero or subnormal, which XLA takes for zero, by 1."""
    return np.where(scale < np.finfo(np.float32).tiny, np.float32(1), scale)


def _whole_range(w: Array, cell: Cell, bits: int) -> Array:
    return _positive(_absmax(w, cell) / np.float32(2 ** (bits - 1) - 1))


def _best_range(w: Array, cell: Cell, bits: int) -> Array:
    whole = _whole_range(w, cell, bits)
    return _least_error(w, cell, _SHARES[bits][:, None, None] * whole, 2 ** (bits - 1) - 1)


_CLIPS: Final[dict[str, Callable[[Array, Cell, int], Array]]] = {
    "max": _whole_range,
    "mse": _best_range,
}


def _least_error(w: Array, cell: Cell, candidates: Array, top: int) -> Array:
    """Return the scales of [C, R, G] with the least squared error per group; first of equals."""
    if len(candidates) == 1:
        return np.asarray(candidates[0])
    errors = np.zeros(candidates.shape, np.float64)
    for tile in cell.tiles:
        values = read(w, tile)
        for index, scale in enumerate(candidates[..., None]):
            off = values / scale
            np.rint(off, out=off)
            np.clip(off, -top, top, out=off)
            off *= scale
            off -= values
            errors[index] += np.einsum("rgm,rgm->rg", off, off)
    best = errors.argmin(axis=0)[None]
    return np.asarray(_positive(np.take_along_axis(candidates, best, axis=0)[0]))


def _encode(w: Array, cell: Cell, scale: Array, top: int, codes: Array) -> None:
    """Write the codes of a cell."""
    for tile in cell.tiles:
        values = read(w, tile) / scale[cell.at][..., None]
        np.rint(values, out=values)
        np.clip(values, -top, top, out=values)
        codes[tile.at] = values.reshape(tile.shape)


def _spread(shared: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Fold [O, I] so that an array of ``shared`` shape broadcasts: (O, I/g, g)."""
    return shape[0], shared[1], shape[1] // shared[1]
