"""Norms over the last dimension, by name.

The rule it keeps: statistics are float32 whatever comes in (flax promotes them), and the variance
is the mean of squared differences, not a difference of means, which cancels where a feature's mean
is large against its spread.
"""

from __future__ import annotations

from typing import Final, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from maas_sdk.errors import ConfigError

__all__ = ["NORMS", "NormName", "norm"]

NormName = Literal["layer", "rms"]

# "layer": Ba et al. 2016, scale and bias. "rms": Zhang and Sennrich 2019, scale alone.
NORMS: Final[tuple[NormName, ...]] = ("layer", "rms")


def norm(
    name: NormName,
    features: int,
    *,
    epsilon: float,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> nnx.LayerNorm | nnx.RMSNorm:
    """A norm over the last dimension: float[…, D] → float[…, D].

    Args:
        name: "layer" or "rms".
        features: D.
        epsilon: added to the variance.
        dtype: dtype of the result; None follows inputs and parameters.
        param_dtype: dtype of the parameters.
        rngs: nnx asks for it; the parameters start at 1 and 0.

    Raises:
        ConfigError: another name.
    """
    if name not in NORMS:
        raise ConfigError(f"norm: expected one of {', '.join(NORMS)}, got {name!r}")
    kind = nnx.LayerNorm if name == "layer" else nnx.RMSNorm
    return kind(
        features,
        epsilon=epsilon,
        use_fast_variance=False,
        dtype=dtype,
        param_dtype=param_dtype,
        rngs=rngs,
    )
