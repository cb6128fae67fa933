"""Scales that move difficulty between a layer's weights and its inputs: SmoothQuant and AWQ.

The rule it keeps: before anything is rounded the layer's output is what it was,

    x · w = (x / s) · (s · w),  one s per input,

so s is folded into whatever comes before the layer. A function here only finds s; multiplying the
weights and dividing what feeds them is the caller's.

    SmoothQuant   s_i = max|x_i|^α / max|w_i|^(1−α)       (Xiao et al. 2023, equation 4)
    AWQ           s_i = mean|x_i|^α, α in [0, 1] by search (Lin et al. 2024, section 3.2)

SmoothQuant evens out inputs with outliers, for layers whose activations are quantized too; AWQ
protects the weights of inputs that matter, for layers whose weights alone are.

Dimension letters: O output channels, I inputs, n calibration rows.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from maas_sdk.compress.methods.gptq import check_gram
from maas_sdk.compress.methods.grids import Clip, check_bits, symmetric
from maas_sdk.compress.methods.tiles import Granularity, cells, check_matrix, read
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array

__all__ = ["awq", "smoothquant"]

# Output channels by which AWQ judges an exponent, drawn evenly. Its cost is theirs times I².
_CHANNELS: Final = 512

# Magnitudes below this share of the largest count as much: an input that calibration rows hardly
# used would get a scale that only another one's weights pay for.
_LEAST_SHARE: Final = 1e-4


def smoothquant(limits: Any, w: Any, *, alpha: float = 0.5) -> Array:
    """Compute s_i = max|x_i|^α / max|w_i|^(1−α).

    Args:
        limits: float [I], max|x_i| over calibration rows.
        w: float [O, I], finite. Of several layers that are fed the same: their weights stacked
            along O.
        alpha: how much of the difficulty moves from inputs to weights, 0 ≤ α ≤ 1. The paper takes
            0.5, and 0.75 where outliers are large.

    Returns:
        Float32 [I], positive; 1 where an input or all its weights are 0.

    Raises:
        ConfigError: an α that is no share.
        InputError: not a matrix of finite floats; limits of another shape, negative or not finite.
    """
    w = check_matrix(w)
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha: expected a share 0 ≤ x ≤ 1, got {alpha}", alpha=alpha)
    reach = _magnitudes(limits, w.shape[1], "limits")
    weights = np.zeros(w.shape[1])
    for cell in cells(w.shape, "tensor"):
        for tile in cell.tiles:
            part = weights[tile.at[1]]
            found = np.abs(read(w, tile)).reshape(tile.shape).max(axis=0)
            np.maximum(part, found, out=part)
    used = (reach > 0) & (weights > 0)
    scale = np.ones(w.shape[1])
    scale[used] = reach[used] ** alpha / weights[used] ** (1 - alpha)
    return _safe(scale)


def awq(
    w: Any,
    gram: Any,
    *,
    bits: int,
    granularity: Granularity = "channel",
    magnitudes: Any = None,
    clip: Clip = "max",
    steps: int = 20,
) -> Array:
    """Compute s_i = mean|x_i|^α with the α whose rounded weights change the output least.

    Of ``steps`` exponents from 0 (s = 1, nothing changes) to 1, the one with the least
    ‖(W − Q(W·s)/s) X‖² = tr(D G Dᵀ) with D the difference and G = X Xᵀ, on up to 512 output
    channels. Each s is divided by √(max s · min s), so that scaling up and down balance.

    Args:
        w: float [O, I], finite.
        gram: float [I, I], Σ x xᵀ over calibration rows x; any positive factor will do. A
            diagonal one takes inputs as independent, which is cheaper to gather.
        bits: of the weights' grid: 2, 3, 4 or 8.
        granularity: who shares a scale of the grid.
        magnitudes: float [I], mean|x_i| over calibration rows. None takes the root mean squares
            that ``gram`` holds.
        clip: how the grid's ranges are found.
        steps: exponents that are tried, 2 or more.

    Returns:
        Float32 [I], positive.

    Raises:
        ConfigError: bits, granularity, clip or steps that there are not.
        InputError: not a matrix of finite floats; a gram or magnitudes of another shape, negative
            or not finite.
    """
    w = check_matrix(w)
    check_bits(bits)
    if steps < 2:
        raise ConfigError(f"steps: expected 2 or more exponents, got {steps}", steps=steps)
    gram = check_gram(gram, w.shape[1])
    found = np.sqrt(np.diag(gram)) if magnitudes is None else magnitudes
    found = _magnitudes(found, w.shape[1], "magnitudes")
    if found.max() == 0:
        return np.ones(w.shape[1], np.float32)
    found = np.maximum(found / found.max(), _LEAST_SHARE)
    count = min(len(w), _CHANNELS)
    sample = np.asarray(w[np.arange(count) * len(w) // count], np.float32)
    # Only the order of errors counts, so the products may be of float32.
    gram = (gram / max(np.diag(gram).max(), np.finfo(np.float64).tiny)).astype(np.float32)
    best, least = np.ones(w.shape[1], np.float32), np.inf
    for exponent in np.linspace(0, 1, steps):
        scale = found**exponent
        scale = _safe(scale / np.sqrt(scale.max() * scale.min()))
        codes = symmetric(sample * scale, bits=bits, granularity=granularity, clip=clip)
        off = codes.decode() / scale - sample
        error = float(np.einsum("oi,oi->", off @ gram, off, dtype=np.float64))
        if error < least:
            best, least = scale, error
    return best


def _magnitudes(given: Any, inputs: int, name: str) -> Array:
    found: Array = np.asarray(given, np.float64)
    if found.shape != (inputs,):
        raise InputError(
            f"{name}: expected [{inputs}], one per input of the weights, got {list(found.shape)}",
            expected=(inputs,),
            found=found.shape,
        )
    if not np.isfinite(found).all() or found.min() < 0:
        wrong = int(np.flatnonzero(~(np.isfinite(found) & (found >= 0)))[0])
        raise InputError(
            f"{name}: expected finite numbers ≥ 0, got {found[wrong]} at input {wrong}; look for a "
            "broken calibration row",
            input=wrong,
        )
    return found


def _safe(scale: Array) -> Array:
    """Convert to float32, with values and inverses within the normal numbers."""
    return np.clip(scale, 2.0**-60, 2.0**60).astype(np.float32)
