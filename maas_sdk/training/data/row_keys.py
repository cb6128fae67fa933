"""Random numbers per row, the same whatever batch or host the row comes in.

The rule it keeps: a number is a hash of (seed, epoch, row, turn), so nothing has to be drawn in
order and a batch's numbers come in one vector operation. The hash is splitmix64's output function
over its counter (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014);
a generator of NumPy's for each row would be as good, and cost 10 µs for each.

Dimension letters: B rows.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from maas_sdk.tensors import Array

__all__ = ["normals", "row_keys", "stream", "uniforms"]

# splitmix64's increment, 2^64 over the golden ratio, and its two multipliers.
_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)

# Any constant: what row keys are called among all that is random about a run.
_KEYS: Final = 1


def _mix(values: Array) -> Array:
    """Apply splitmix64's output function, uint64[…] → uint64[…], a scattering bijection."""
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    mixed: Array = values ^ (values >> np.uint64(31))
    return mixed


def row_keys(rows: Array, *, seed: int, epoch: int, turn: Array | int = 0) -> Array:
    """Return a key for each row.

    Args:
        rows: int64[B], row numbers.
        seed: of the run, ≥ 0.
        epoch: 1 for the first.
        turn: int64[B], how often the row came before in this epoch, so that a row drawn twice is
            changed in two ways.

    Returns:
        uint64[B].
    """
    # NumPy's own hash of numbers of any size; its spawn key sets it apart from orders.
    run = np.random.SeedSequence((seed, epoch), spawn_key=(_KEYS,))
    key = run.generate_state(1, np.uint64)
    for part in (rows, np.asarray(turn)):
        key = _mix((key ^ part.astype(np.uint64)) + _GAMMA)
    return np.broadcast_to(key, (len(rows),))


def stream(keys: Array, number: int) -> Array:
    """Return keys uint64[B] of another stream: one for each random property of a row."""
    # An array of one, since a scalar of NumPy's would warn that it wraps round.
    return _mix(keys + np.array([number + 1], np.uint64) * _FIRST)


def uniforms(keys: Array, count: int) -> Array:
    """Return ``count`` numbers for each key, float64[B, count], uniform over [0, 1)."""
    counters = np.arange(1, count + 1, dtype=np.uint64) * _GAMMA
    bits = _mix(keys[:, None] + counters)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normals(keys: Array, count: int) -> Array:
    """Return ``count`` standard normals for each key, float64[B, count] (Box, Muller 1958)."""
    half = (count + 1) // 2
    drawn = uniforms(keys, 2 * half)
    # 1 - u is in (0, 1], which has a logarithm.
    radius = np.sqrt(-2.0 * np.log1p(-drawn[:, :half]))
    angle = 2.0 * np.pi * drawn[:, half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :count]
