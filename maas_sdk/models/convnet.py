"""A small convolutional classifier for handwritten digits.

The rule it keeps: the module says what is computed, not in which precision it is trained. With
``dtype=None`` every layer computes in the dtype that its inputs and parameters promote to, so a
training policy can hand it bfloat16 copies and a server float32 ones.

Attribute names are what sharding and quantization rules match: ``stem`` and ``trunk`` are
convolutions (kernel ``[height, width, in, out]``), ``hidden`` and ``head`` are dense (kernel
``[in, out]``).

Dimension letters: B rows of a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from maas_sdk.errors import ConfigError
from maas_sdk.models.settings import check_settings, settings_of

__all__ = ["CONVNET_PRESETS", "ConvNet", "ConvNetConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvNetConfig:
    """Configuration of ``ConvNet``, for models that are made by configuration or name."""

    # K.
    classes: int = 10
    # Output channels of ``stem`` and ``trunk``.
    features: tuple[int, int] = (32, 64)
    # Width of ``hidden``.
    hidden_features: int = 128

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))
        if len(self.features) != 2:
            raise ConfigError(f"features: expected two numbers of channels, got {self.features}")
        check_settings(self, positive=("classes", "features", "hidden_features"))

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Return a shape out of ``CONVNET_PRESETS``, with fields changed.

        Raises:
            ConfigError: no such preset or field, or a value that a field does not take.
        """
        return cls(**settings_of(cls, CONVNET_PRESETS, name, changes))


# Fields by name: scikit-learn's 8×8 digits.
CONVNET_PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {"convnet-digits": {"classes": 10, "features": (32, 64), "hidden_features": 128}}
)


class ConvNet(nnx.Module):
    """Two convolutions, one pooling, two dense layers: 8×8×1 images in, K logits out.

    Args:
        classes: K.
        features: output channels of ``stem`` and ``trunk``.
        hidden_features: width of ``hidden``.
        dtype: dtype to compute in; None follows inputs and parameters.
        param_dtype: dtype of the parameters.
        rngs: source of the initial parameters; one seed gives the same parameters everywhere.
    """

    def __init__(
        self,
        *,
        rngs: nnx.Rngs,
        classes: int = 10,
        features: tuple[int, int] = (32, 64),
        hidden_features: int = 128,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        stem, trunk = features

        def conv(inputs: int, outputs: int) -> nnx.Conv:
            return nnx.Conv(
                inputs, outputs, (3, 3), dtype=dtype, param_dtype=param_dtype, rngs=rngs
            )

        def dense(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

        self.stem = conv(1, stem)
        self.trunk = conv(stem, trunk)
        self.hidden = dense(4 * 4 * trunk, hidden_features)
        self.head = dense(hidden_features, classes)

    @classmethod
    def of(
        cls,
        config: ConvNetConfig,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> Self:
        """Return the module that ``config`` describes; other arguments are the constructor's."""
        return cls(
            rngs=rngs,
            classes=config.classes,
            features=config.features,
            hidden_features=config.hidden_features,
            dtype=dtype,
            param_dtype=param_dtype,
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Classify images.

        Args:
            images: float[B, 8, 8, 1], 0 is paper and 1 is ink.

        Returns:
            logits, float32[B, K]; softmax over the last axis gives probabilities.
        """
        x = nnx.relu(self.stem(images))
        x = nnx.relu(self.trunk(x))
        x = nnx.max_pool(x, (2, 2), strides=(2, 2))  # type: ignore[no-untyped-call]
        x = x.reshape(x.shape[0], -1)
        x = nnx.relu(self.hidden(x))
        # Losses and probabilities are taken in float32, whatever the layers computed in.
        return self.head(x).astype(jnp.float32)
