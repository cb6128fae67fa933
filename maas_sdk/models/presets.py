"""Models by name, and models without weights.

The rule it keeps: a configuration's class determines its module (``MODULES``), so a configuration
or its name is enough to make the model; shapes alone are made without weights in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from maas_sdk.errors import ConfigError
from maas_sdk.models.convnet import CONVNET_PRESETS, ConvNet, ConvNetConfig
from maas_sdk.models.mlp import MLP, MLP_PRESETS, MLPConfig
from maas_sdk.models.recurrent import RECURRENT_PRESETS, Recurrent, RecurrentConfig
from maas_sdk.models.resnet import RESNET_PRESETS, ResNet, ResNetConfig
from maas_sdk.models.transformer import Decoder, Encoder
from maas_sdk.models.transformer_config import (
    DECODER_PRESETS,
    ENCODER_PRESETS,
    DecoderConfig,
    EncoderConfig,
)

__all__ = ["MODULES", "PRESETS", "abstract_model", "make_model", "preset"]

# The module that a configuration describes.
MODULES: Final[Mapping[type, Callable[..., nnx.Module]]] = MappingProxyType(
    {
        ConvNetConfig: ConvNet.of,
        DecoderConfig: Decoder,
        EncoderConfig: Encoder,
        MLPConfig: MLP,
        RecurrentConfig: Recurrent,
        ResNetConfig: ResNet,
    }
)

# The kind of configuration of every preset, by name.
PRESETS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        **dict.fromkeys(MLP_PRESETS, MLPConfig),
        **dict.fromkeys(CONVNET_PRESETS, ConvNetConfig),
        **dict.fromkeys(RESNET_PRESETS, ResNetConfig),
        **dict.fromkeys(RECURRENT_PRESETS, RecurrentConfig),
        **dict.fromkeys(ENCODER_PRESETS, EncoderConfig),
        **dict.fromkeys(DECODER_PRESETS, DecoderConfig),
    }
)


def preset(name: str, **changes: Any) -> Any:
    """Return the configuration of that name, of any architecture, with fields changed.

    Raises:
        ConfigError: no such name or field.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown model {name!r}; known are {', '.join(PRESETS)}", preset=name)
    return PRESETS[name].preset(name, **changes)


def make_model(
    config: Any,
    *,
    rngs: nnx.Rngs,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
) -> Any:
    """Return the module that ``config`` describes, with initial parameters.

    Args:
        config: a configuration out of this package, or the name of a preset.
        rngs: source of the initial parameters.
        dtype: dtype to compute in; None follows inputs and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ConfigError: an unknown name, or something that is no configuration.
    """
    if isinstance(config, str):
        config = preset(config)
    if type(config) not in MODULES:
        raise ConfigError(
            f"model: expected the name of a preset or one of "
            f"{', '.join(kind.__name__ for kind in MODULES)}, got {type(config).__name__}"
        )
    return MODULES[type(config)](config, dtype=dtype, param_dtype=param_dtype, rngs=rngs)


def abstract_model(config: Any, *, param_dtype: DTypeLike = jnp.float32) -> Any:
    """Return the module with ``jax.ShapeDtypeStruct`` in place of arrays; see ``make_model``.

    An 8-billion-parameter decoder takes no memory and, with ``scan_layers``, under a second.
    """
    return nnx.eval_shape(lambda: make_model(config, rngs=nnx.Rngs(0), param_dtype=param_dtype))
