"""Decoding deferred until use, so that a program holds one decoded weight at a time.

XLA:CPU schedules ready operations early, and a weight's codes are ready from the start: it
decodes all weights of a program before the first product, and holds them in float beside each other
(18 layers of 2048 × 2048: 302 MB of temporaries, and half the speed). Codes that depend on the
product's input cannot be decoded before it is there (17 MB). ``optimization_barrier`` does not
help, it is gone before the schedule is made.

The rule it keeps: the deferred codes are the same, bit for bit, whatever the input holds; other
processors are not affected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import jax
import jax.numpy as jnp

__all__ = ["schedule_after"]

# Smaller parts, such as scales and codebooks, may lie about.
_NUMBERS: Final = 4096


def schedule_after(parts: Mapping[str, Any], other: Any) -> dict[str, Any]:
    """Return a weight's parts, the large ones read no earlier than ``other``, the input."""
    return {
        name: _after(part, other) if part.size >= _NUMBERS and other.size else part
        for name, part in parts.items()
    }


def _after(part: Any, other: Any) -> Any:
    return jax.lax.platform_dependent(part, other, cpu=_tied, default=lambda part, other: part)


def _tied(part: Any, other: Any) -> Any:
    """Add to ``part`` a zero that the compiler does not recognise as one."""
    first = jax.lax.slice(other, (0,) * other.ndim, (1,) * other.ndim).reshape(())
    first = first.astype(jnp.float32)
    never = (first != first) & (first == first)
    bits = jnp.dtype(f"uint{8 * part.dtype.itemsize}")
    zero = never.astype(bits)
    tied = jax.lax.bitcast_convert_type(part, bits) | zero
    return jax.lax.bitcast_convert_type(tied, part.dtype)
