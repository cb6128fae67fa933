"""A multi-layer perceptron: dense layers with an activation between them.

The rule it keeps: rows of any shape come in and are flattened, so the same module reads a table of
measurements and a small image.

Dimension letters: B rows of a batch, D numbers of a row, K outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from maas_sdk.errors import InputError
from maas_sdk.models.activations import activation
from maas_sdk.models.embedding import head
from maas_sdk.models.settings import check_settings, settings_of

__all__ = ["MLP", "MLP_PRESETS", "MLPConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MLPConfig:
    """Configuration of a multi-layer perceptron."""

    # D.
    features: int
    # Width of each hidden layer; () is a linear model.
    hidden_features: tuple[int, ...] = (128, 128)
    # K: classes, or numbers to predict.
    outputs: int
    # A name out of ``activations.ACTIVATIONS``.
    activation: str = "relu"
    use_bias: bool = True
    # Share of each hidden layer that is dropped in training.
    dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_features", tuple(self.hidden_features))
        check_settings(self, positive=("features", "hidden_features", "outputs"))

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Return a shape out of ``MLP_PRESETS``, with fields changed.

        Raises:
            ConfigError: no such preset or field, or a value that a field does not take.
        """
        return cls(**settings_of(cls, MLP_PRESETS, name, changes))


# Fields by name: scikit-learn's 8×8 digits, MNIST's 28×28.
MLP_PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "mlp-digits": {"features": 64, "hidden_features": (64, 64), "outputs": 10},
        "mlp-mnist": {"features": 784, "hidden_features": (512, 512), "outputs": 10},
    }
)


class MLP(nnx.Module):
    """Dense layers; parameters ``hidden/<i>`` and ``head``.

    Args:
        config: its shape.
        dtype: dtype to compute in; None follows inputs and parameters.
        param_dtype: dtype of the parameters.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        config: MLPConfig,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        given: Any = {
            "use_bias": config.use_bias,
            "dtype": dtype,
            "param_dtype": param_dtype,
            "rngs": rngs,
        }
        *widths, last = (config.features, *config.hidden_features)
        self.hidden = nnx.List(
            [
                nnx.Linear(inputs, outputs, **given)
                for inputs, outputs in zip(widths, config.hidden_features, strict=True)
            ]
        )
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs) if config.dropout else None
        self.head = head(last, config.outputs, **given)
        self.config = config

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """float[B, …] with D numbers in each row → float32[B, K].

        Raises:
            InputError: rows of another size.
        """
        x = jnp.asarray(inputs)
        if math.prod(x.shape[1:]) != self.config.features or x.ndim < 2:
            raise InputError(
                f"inputs: expected rows of {self.config.features} numbers, got {list(x.shape)}"
            )
        x = x.reshape(x.shape[0], -1)
        act = activation(self.config.activation)
        for layer in self.hidden:
            x = act(layer(x))
            if self.dropout is not None:
                x = self.dropout(x)
        logits: jax.Array = self.head(x)
        return logits
