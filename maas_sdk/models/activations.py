"""Activation functions by name.

The rule it keeps: a configuration holds a name, never a function, so that it can be compared,
printed and written to JSON. Names are those of ``jax.nn``, with the spellings that configurations
of other libraries use beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Final

import jax

from maas_sdk.errors import ConfigError

__all__ = ["ACTIVATIONS", "Activation", "activation"]

# float[…] → float[…] of the same shape and dtype.
Activation = Callable[[jax.Array], jax.Array]

_gelu: Final[Activation] = partial(jax.nn.gelu, approximate=False)
_gelu_tanh: Final[Activation] = partial(jax.nn.gelu, approximate=True)


def _identity(x: jax.Array) -> jax.Array:
    return x


ACTIVATIONS: Final = MappingProxyType[str, Activation](
    {
        "celu": jax.nn.celu,
        "elu": jax.nn.elu,
        # x·Φ(x) with the exact normal distribution; jax.nn.gelu's own default is the next one.
        "gelu": _gelu,
        # Its approximation by a hyperbolic tangent (Hendrycks and Gimpel 2016, section 2).
        "gelu_tanh": _gelu_tanh,
        "gelu_new": _gelu_tanh,
        "gelu_pytorch_tanh": _gelu_tanh,
        "hard_sigmoid": jax.nn.hard_sigmoid,
        "hard_silu": jax.nn.hard_silu,
        "hard_swish": jax.nn.hard_silu,
        "hard_tanh": jax.nn.hard_tanh,
        "identity": _identity,
        "leaky_relu": jax.nn.leaky_relu,
        "linear": _identity,
        "log_sigmoid": jax.nn.log_sigmoid,
        "mish": jax.nn.mish,
        "relu": jax.nn.relu,
        "relu6": jax.nn.relu6,
        "selu": jax.nn.selu,
        "sigmoid": jax.nn.sigmoid,
        "silu": jax.nn.silu,
        "soft_sign": jax.nn.soft_sign,
        "softplus": jax.nn.softplus,
        "swish": jax.nn.silu,
        "tanh": jax.nn.tanh,
    }
)


def activation(name: str) -> Activation:
    """Return the function of that name.

    Raises:
        ConfigError: there is none; the message lists all.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(
            f"activation: unknown {name!r}; known are {', '.join(ACTIVATIONS)}", activation=name
        )
    return ACTIVATIONS[name]
