"""Norms over the last dimension, by name, and batch norm.

The rule it keeps: statistics are float32 whatever the input's dtype (flax promotes them), and the
output has the input's dtype. The variance of a layer norm is the mean of squared differences, not
a difference of means, which cancels where a feature's mean is large against its spread.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.typing import DTypeLike

from maas_sdk.errors import ConfigError

__all__ = ["NORMS", "NormName", "batch_norm", "norm"]

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
    """Return a norm over the last dimension: float[…, D] → float[…, D].

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


def batch_norm(
    features: int,
    *,
    momentum: float,
    epsilon: float,
    zero: bool = False,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> nnx.BatchNorm:
    """Return a norm over all dimensions but the last (Ioffe and Szegedy 2015).

    Args:
        features: D.
        momentum: share of the running statistics that a training step keeps.
        epsilon: added to the variance.
        zero: whether the scale starts at 0 instead of 1.
        dtype: dtype of the result; None follows inputs and parameters.
        param_dtype: dtype of scale and bias; the running statistics are float32.
        rngs: nnx asks for it; the parameters start at 0 and 1.
    """
    promote: Any = _promote_all_but_statistics
    return nnx.BatchNorm(
        features,
        momentum=momentum,
        epsilon=epsilon,
        scale_init=nnx.initializers.zeros if zero else nnx.initializers.ones,
        dtype=dtype,
        param_dtype=param_dtype,
        promote_dtype=promote,
        rngs=rngs,
    )


def _promote_all_but_statistics(
    values: tuple[Any, ...], /, *, dtype: Any = None, inexact: bool = True
) -> tuple[Any, ...]:
    """Promote dtypes for ``nnx.BatchNorm`` without its float32 statistics."""
    x, mean, variance, scale, bias = values
    x, scale, bias = promote_dtype((x, scale, bias), dtype=dtype, inexact=inexact)
    return x, mean, variance, scale, bias
