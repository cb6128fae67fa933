"""Rotary position embedding: queries and keys rotated by an angle that grows with position.

The rule it keeps: angles, sines and cosines are float32 and are computed, not stored; only the
rotated vectors take the input's dtype.

Su et al. 2021, "RoFormer", section 3.4.2, with the two halves of a head as the pairs that are
turned (dimension i with i + H/2), which is how Llama's published weights are laid out.

Dimension letters: B rows of a batch, T positions, N heads, H features of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from maas_sdk.errors import ConfigError

__all__ = ["RotaryConfig", "rotate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RotaryConfig:
    """Rotation speeds of the feature pairs, with Llama 3.1's scaling of the slow ones."""

    # Base of the geometric series of wavelengths; 10 000 in the paper, 500 000 in Llama 3.
    theta: float = 10_000.0
    # Llama 3.1: wavelengths above original_length / low_factor are stretched by ``factor``, those
    # below original_length / high_factor stay, those between are blended. 1 changes nothing.
    factor: float = 1.0
    low_factor: float = 1.0
    high_factor: float = 4.0
    # Positions that the model was first trained with.
    original_length: int = 8192

    def __post_init__(self) -> None:
        if self.theta <= 1 or self.factor < 1 or self.original_length < 1:
            raise ConfigError(
                "rotary: expected theta > 1, factor ≥ 1 and original_length ≥ 1, got "
                f"{self.theta}, {self.factor} and {self.original_length}"
            )
        if not 0 < self.low_factor < self.high_factor:
            raise ConfigError(
                "rotary: expected 0 < low_factor < high_factor, got "
                f"{self.low_factor} and {self.high_factor}"
            )

    def frequencies(self, head_features: int) -> jax.Array:
        """Radians per position of each pair, float32[H/2]."""
        exponents = jnp.arange(0, head_features, 2, dtype=jnp.float32) / head_features
        frequencies: jax.Array = jnp.float32(self.theta) ** -exponents
        if self.factor == 1:
            return frequencies
        turns = self.original_length * frequencies / (2 * math.pi)
        keep = jnp.clip((turns - self.low_factor) / (self.high_factor - self.low_factor), 0, 1)
        slowed: jax.Array = frequencies * ((1 - keep) / self.factor + keep)
        return slowed


def rotate(x: jax.Array, config: RotaryConfig, positions: jax.Array) -> jax.Array:
    """Rotate every head of ``x`` by its position.

    Args:
        x: queries or keys, float[B, T, N, H] with an even H.
        config: how fast to turn.
        positions: integer[T] or [B, T].

    Returns:
        float[B, T, N, H] in the dtype of ``x``.
    """
    angles = positions[..., None].astype(jnp.float32) * config.frequencies(x.shape[-1])
    # [T, H/2] or [B, T, H/2] → one more dimension for the heads.
    cos, sin = jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
