"""A classifier of sequences: LSTM or GRU layers, and a head on their last outputs.

The rule it keeps: the cells' equations and biases are torch's, so its weights fit; a row may be
shorter than its batch, and the padding behind its end changes nothing.

Hochreiter and Schmidhuber 1997, with forget gates (Gers et al. 2000); Cho et al. 2014, with the
reset gate after the product.

Dimension letters: B rows of a batch, T steps of a sequence, D features of a step, H features of a
cell, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from maas_sdk.errors import InputError
from maas_sdk.models.embedding import Embedding, head
from maas_sdk.models.settings import check_choice, check_settings, settings_of

__all__ = ["RECURRENT_PRESETS", "GRUCell", "Recurrent", "RecurrentConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RecurrentConfig:
    """Configuration of a recurrent classifier."""

    cell: Literal["lstm", "gru"] = "lstm"
    # D.
    features: int
    # H.
    hidden_features: int = 128
    layers: int = 1
    # Whether a second cell of each layer reads the sequence backwards.
    bidirectional: bool = False
    # K.
    classes: int
    # With it, inputs are tokens, and a table of that many rows makes them vectors of D features.
    vocab_size: int | None = None
    # Share of what goes from layer to layer, and into the head, that is dropped in training.
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_choice(self, "cell", ("lstm", "gru"))
        check_settings(self, positive=("features", "hidden_features", "layers", "classes"))
        if self.vocab_size is not None:
            check_settings(self, positive=("vocab_size",))

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Return a shape out of ``RECURRENT_PRESETS``, with fields changed.

        Raises:
            ConfigError: no such preset or field, or a value that a field does not take.
        """
        return cls(**settings_of(cls, RECURRENT_PRESETS, name, changes))


# Fields by name: an 8×8 digit as a sequence of 8 rows.
_DIGITS: Final[dict[str, Any]] = {"features": 8, "hidden_features": 64, "classes": 10}
RECURRENT_PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "lstm-digits": {"cell": "lstm", **_DIGITS},
        "gru-digits": {"cell": "gru", **_DIGITS},
    }
)


def _orthogonal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Initialize in float32, whatever the kernel's dtype: LAPACK has no QR of bfloat16."""
    return nnx.initializers.orthogonal()(key, shape, jnp.float32).astype(dtype)


class GRUCell(nnx.GRUCell):
    """``nnx.GRUCell`` with a bias on the recurrent product, as torch and cuDNN have it.

    Args:
        features: D.
        hidden_features: H.
        dtype: dtype to compute in; None follows inputs and parameters.
        param_dtype: dtype of the parameters.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        features: int,
        hidden_features: int,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            features,
            hidden_features,
            recurrent_kernel_init=_orthogonal,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.dense_h = nnx.Linear(
            hidden_features,
            3 * hidden_features,
            kernel_init=_orthogonal,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )


_CELLS: Final[dict[str, Any]] = {
    "lstm": partial(nnx.OptimizedLSTMCell, recurrent_kernel_init=_orthogonal),
    "gru": GRUCell,
}


class Recurrent(nnx.Module):
    """Recurrent layers and a head; parameters ``layers/<i>/{forward,backward}`` and ``head``.

    Args:
        config: its shape.
        dtype: dtype to compute in; None follows inputs and parameters.
        param_dtype: dtype of the parameters.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        config: RecurrentConfig,
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        given: Any = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        directions = _directions(config)
        width = config.hidden_features * len(directions)
        self.embed = (
            None
            if config.vocab_size is None
            else Embedding(config.vocab_size, config.features, std=1.0, **given)
        )
        self.layers = nnx.List(
            [
                nnx.Dict(
                    {
                        direction: _CELLS[config.cell](
                            width if i else config.features, config.hidden_features, **given
                        )
                        for direction in directions
                    }
                )
                for i in range(config.layers)
            ]
        )
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs) if config.dropout else None
        self.head = head(width, config.classes, **given)
        self.config = config

    def __call__(self, inputs: jax.Array, *, lengths: jax.Array | None = None) -> jax.Array:
        """Classify sequences.

        Args:
            inputs: float[B, T, D] (further dimensions of a step are flattened into D), or
                integer[B, T] with ``config.vocab_size``.
            lengths: integer[B], steps of each row that count, 1 … T; None is T.

        Returns:
            logits, float32[B, K].

        Raises:
            InputError: inputs of another shape or dtype.
        """
        x = self._steps(jnp.asarray(inputs))
        real = None
        if lengths is not None:
            # [T, B, 1]
            real = (jnp.arange(x.shape[1])[:, None] < lengths)[..., None]
        x = x.swapaxes(0, 1)
        last: list[jax.Array] = []
        for layer in self.layers:
            if last and self.dropout is not None:
                x = self.dropout(x)
            outputs, last = [], []
            # Not the order of the Dict, which a module that was taken apart has sorted.
            for direction in _directions(self.config):
                found, end = _run(layer[direction], x, real, reverse=direction == "backward")
                outputs.append(found)
                last.append(end)
            x = jnp.concatenate(outputs, axis=-1)
        ended = jnp.concatenate(last, axis=-1)
        if self.dropout is not None:
            ended = self.dropout(ended)
        logits: jax.Array = self.head(ended)
        return logits

    def _steps(self, inputs: jax.Array) -> jax.Array:
        """Return the inputs as float[B, T, D]."""
        whole = jnp.issubdtype(inputs.dtype, jnp.integer)
        if self.embed is not None:
            if inputs.ndim != 2 or not whole:
                raise InputError(
                    f"inputs: expected integers of shape [B, T], got {inputs.dtype}"
                    f"{list(inputs.shape)}"
                )
            embedded: jax.Array = self.embed(inputs)
            return embedded
        steps = inputs.reshape(*inputs.shape[:2], -1) if inputs.ndim > 2 else inputs
        if whole or steps.ndim != 3 or steps.shape[2] != self.config.features:
            raise InputError(
                f"inputs: expected floats of shape [B, T, {self.config.features}], got "
                f"{inputs.dtype}{list(inputs.shape)}"
            )
        return steps


def _directions(config: RecurrentConfig) -> tuple[str, ...]:
    """Return directions in the order in which their outputs lie side by side."""
    return ("forward", "backward") if config.bidirectional else ("forward",)


def _run(
    cell: Any, x: jax.Array, real: jax.Array | None, *, reverse: bool
) -> tuple[jax.Array, jax.Array]:
    """Run all steps of one cell: (outputs [T, B, H], the last output [B, H])."""
    kernel = cell.dense_h.kernel[...]
    dtype = cell.dtype or jnp.promote_types(x.dtype, kernel.dtype)
    zeros = jnp.zeros((x.shape[1], cell.hidden_features), dtype)
    start = (zeros, zeros) if isinstance(cell, nnx.OptimizedLSTMCell) else zeros

    def step(carry: Any, given: Any) -> tuple[Any, jax.Array]:
        inputs, counts = given
        found, output = cell(carry, inputs)
        if counts is not None:
            found = jax.tree.map(lambda new, old: jnp.where(counts, new, old), found, carry)
        return found, output

    carry, outputs = jax.lax.scan(step, start, (x, real), reverse=reverse)
    return outputs, carry[1] if isinstance(carry, tuple) else carry
