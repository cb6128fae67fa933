"""Residual networks for images.

The rule it keeps: layers and their order are those of the published ResNets as everybody trains
them today: the stride of a bottleneck is in its 3×3 convolution ("v1.5"), padding is symmetric,
batch norm keeps 0.9 of its running statistics, and each block starts as the identity (its last
norm's scale is 0; Goyal et al. 2017, section 5.1).

He et al. 2016, table 1 and, for small images, section 4.2: a 3×3 stem without pooling.

Dimension letters: B rows of a batch, Y and X pixels, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.models.activations import activation
from maas_sdk.models.embedding import head
from maas_sdk.models.norms import batch_norm
from maas_sdk.models.settings import check_choice, check_settings, settings_of

__all__ = ["RESNET_PRESETS", "ResNet", "ResNetBlock", "ResNetConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ResNetConfig:
    """Configuration of a residual network."""

    # "basic": two 3×3 convolutions. "bottleneck": 1×1, 3×3, 1×1, four times as wide outside.
    block: Literal["basic", "bottleneck"]
    # Blocks of each stage; every stage but the first halves the image.
    depths: tuple[int, ...]
    # Channels inside the blocks of each stage.
    widths: tuple[int, ...] = (64, 128, 256, 512)
    # "large": 7×7 with stride 2 and pooling with stride 2. "small": 3×3 alone, for images of 8 to
    # 64 pixels.
    stem: Literal["large", "small"] = "large"
    # C.
    channels: int = 3
    # K.
    classes: int = 1000
    # A name out of ``activations.ACTIVATIONS``.
    activation: str = "relu"
    # Share of the running statistics that a training step keeps.
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("depths", "widths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_choice(self, "block", ("basic", "bottleneck"))
        check_choice(self, "stem", ("large", "small"))
        check_settings(self, positive=("depths", "widths", "channels", "classes"))
        if len(self.depths) != len(self.widths) or not self.depths:
            raise ConfigError(
                f"depths and widths: expected one of each per stage, got {len(self.depths)} and "
                f"{len(self.widths)}"
            )

    @property
    def expansion(self) -> int:
        """Channels between blocks, in widths."""
        return 4 if self.block == "bottleneck" else 1

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Return a shape out of ``RESNET_PRESETS``, with fields changed.

        Raises:
            ConfigError: no such preset or field, or a value that a field does not take.
        """
        return cls(**settings_of(cls, RESNET_PRESETS, name, changes))


# Fields by name: He et al. 2016, table 1. "-small" is the same for 32×32 colour images.
_DEPTHS: Final[dict[str, dict[str, Any]]] = {
    "resnet18": {"block": "basic", "depths": (2, 2, 2, 2)},
    "resnet34": {"block": "basic", "depths": (3, 4, 6, 3)},
    "resnet50": {"block": "bottleneck", "depths": (3, 4, 6, 3)},
    "resnet101": {"block": "bottleneck", "depths": (3, 4, 23, 3)},
}
_SMALL: Final[dict[str, Any]] = {"stem": "small", "classes": 10}
RESNET_PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        **_DEPTHS,
        **{f"{name}-small": {**_DEPTHS[name], **_SMALL} for name in ("resnet18", "resnet50")},
        "resnet-digits": {
            "block": "basic",
            "depths": (1, 1),
            "widths": (16, 32),
            "channels": 1,
            **_SMALL,
        },
    }
)


class _Normed(nnx.Module):
    """A convolution with batch norm: ``conv`` and ``norm``."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        config: ResNetConfig,
        *,
        stride: int,
        given: dict[str, Any],
    ) -> None:
        self.conv = _conv(inputs, outputs, size, stride=stride, given=given)
        self.norm = _norm(outputs, config, given=given)

    def __call__(self, x: jax.Array) -> jax.Array:
        y: jax.Array = self.norm(self.conv(x))
        return y


class ResNetBlock(nnx.Module):
    """Residual block of convolutions: ``conv1``, ``norm1``, …, ``shortcut``.

    Args:
        inputs: channels that come in.
        width: channels inside; ``width * config.expansion`` go out.
        stride: 2 halves the image.
        config: the network's.
        given: dtype, param_dtype and rngs of every layer.
    """

    def __init__(
        self, inputs: int, width: int, *, stride: int, config: ResNetConfig, given: dict[str, Any]
    ) -> None:
        outputs = width * config.expansion
        # (size, channels in, channels out, stride) of each convolution.
        plan = (
            [(3, inputs, width, stride), (3, width, outputs, 1)]
            if config.block == "basic"
            else [(1, inputs, width, 1), (3, width, width, stride), (1, width, outputs, 1)]
        )
        for number, (size, before, after, step) in enumerate(plan, start=1):
            last = number == len(plan)
            setattr(self, f"conv{number}", _conv(before, after, size, stride=step, given=given))
            setattr(self, f"norm{number}", _norm(after, config, given=given, zero=last))
        self.shortcut = (
            _Normed(inputs, outputs, 1, config, stride=stride, given=given)
            if stride != 1 or inputs != outputs
            else None
        )
        self.convolutions = len(plan)
        self.activation_name = config.activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """float[B, Y, X, inputs] → float[B, Y/stride, X/stride, outputs]."""
        act = activation(self.activation_name)
        y = x
        for number in range(1, self.convolutions + 1):
            y = getattr(self, f"norm{number}")(getattr(self, f"conv{number}")(y))
            y = act(y) if number < self.convolutions else y
        return act(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nnx.Module):
    """A residual network; parameters ``stem``, ``stages/<s>/<b>`` and ``head``.

    Args:
        config: its shape.
        dtype: dtype to compute in; None follows inputs and parameters.
        param_dtype: dtype of the parameters.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        config: ResNetConfig,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        given = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        size, stride = (7, 2) if config.stem == "large" else (3, 1)
        inputs = config.widths[0]
        self.stem = _Normed(config.channels, inputs, size, config, stride=stride, given=given)
        stages = []
        for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            blocks = []
            for block in range(depth):
                stride = 2 if stage and not block else 1
                blocks.append(ResNetBlock(inputs, width, stride=stride, config=config, given=given))
                inputs = width * config.expansion
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.head = head(inputs, config.classes, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.config = config

    def __call__(self, images: jax.Array) -> jax.Array:
        """Classify images.

        Args:
            images: float[B, Y, X, C].

        Returns:
            logits, float32[B, K].

        Raises:
            InputError: another rank or number of channels.
        """
        x = jnp.asarray(images)
        if x.ndim != 4 or x.shape[-1] != self.config.channels:
            raise InputError(
                f"images: expected shape [B, Y, X, {self.config.channels}], got {list(x.shape)}"
            )
        x = activation(self.config.activation)(self.stem(x))
        if self.config.stem == "large":
            pool: Any = nnx.max_pool
            x = pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage in self.stages:
            for block in stage:
                x = block(x)
        logits: jax.Array = self.head(x.mean(axis=(1, 2)))
        return logits


def _conv(inputs: int, outputs: int, size: int, *, stride: int, given: dict[str, Any]) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=(stride, stride),
        padding=[(size // 2, size // 2)] * 2,
        use_bias=False,
        # He et al. 2015: the variance that a ReLU halves, by what goes out.
        kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "truncated_normal"),
        **given,
    )


def _norm(
    features: int, config: ResNetConfig, *, given: dict[str, Any], zero: bool = False
) -> nnx.BatchNorm:
    return batch_norm(
        features, momentum=config.norm_momentum, epsilon=config.norm_epsilon, zero=zero, **given
    )
