"""A model with the normalization of its inputs, to be served as one.

The rule it keeps: the statistics are weights like any other, though not trained: an export carries
them in the bundle, beside the model's, and the served model takes raw inputs.

Dimension letters: B rows of a batch.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from maas_sdk.training.data.normalization import Normalization, check_row_shape

__all__ = ["Preprocessed", "Statistic"]


class Statistic(nnx.Variable[jax.Array]):
    """A statistic of the training data; no parameter, so no optimizer updates it."""


class Preprocessed(nnx.Module):
    """Model of raw inputs: normalizes them, then calls the wrapped model.

    Args:
        model: called with normalized inputs, [B, …] of the float dtype that came, or of float32
            where integers did. It is not copied.
        normalization: what it was trained with.
    """

    def __init__(self, model: nnx.Module, normalization: Normalization) -> None:
        self.model = model
        self.offset = Statistic(jnp.asarray(normalization.offset))
        self.scale = Statistic(jnp.asarray(normalization.scale))

    def __call__(self, inputs: jax.Array, *arguments: Any, **named: Any) -> Any:
        """Return the model's outputs.

        Args:
            inputs: [B, …] as they are in the data, of any real dtype. bfloat16 keeps 8 bits of a
                raw value: train such a policy on normalized data, and wrap the model afterwards.
            arguments: handed on to the model.
            named: handed on to the model.

        Raises:
            InputError: the statistics are of rows of another shape.
        """
        offset, scale = self.offset[...], self.scale[...]
        check_row_shape(offset.shape, inputs.shape[1:])
        # In float32, whatever comes; then in the float that came, in which the model computes.
        given = inputs.dtype if jnp.issubdtype(inputs.dtype, jnp.floating) else jnp.float32
        normalized = ((inputs.astype(jnp.float32) - offset) / scale).astype(given)
        model: Any = self.model
        return model(normalized, *arguments, **named)
