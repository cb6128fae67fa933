"""Training losses by name, one value per row or token.

The rule it keeps: a loss takes the model's output and the target, returns a
float32 value for each row (or each token of it) and leaves the averaging to its caller, who knows
which rows are padding. Every formula is optax's; here they get a name, float32 and a check of the
shapes, so that a regression of ``[B, 1]`` against ``[B]`` is an error and not a broadcast.

Dimension letters: B rows of a batch, T tokens of a row, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp
import optax

from maas_sdk.errors import ConfigError, InputError

__all__ = [
    "CLASSES",
    "LOSSES",
    "LossFn",
    "binary_cross_entropy",
    "cross_entropy",
    "huber",
    "loss_by_name",
    "mean_absolute_error",
    "mean_squared_error",
]

# (outputs, labels) → loss of each row float32[B], or of each token float32[B, T]
LossFn = Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(*, label_smoothing: float = 0.0) -> LossFn:
    """Compute softmax cross-entropy of logits float[B, K] and labels integer[B], in float32.

    Logits [B, T, K] with labels [B, T] give a loss for every token. Labels float[B, K] are soft
    targets, a distribution over the classes for each row, as ``data.Mixup`` makes them.

    Args:
        label_smoothing: α in Szegedy et al. 2016, section 7: the target is 1 - α + α/K at the label
            and α/K elsewhere, so the model gains nothing from being ever more certain.

    Raises:
        ConfigError: α is not in 0 ≤ α < 1.
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise ConfigError(f"label_smoothing: expected 0 ≤ x < 1, got {label_smoothing}")

    def loss_fn(logits: jax.Array, labels: jax.Array) -> jax.Array:
        soft = labels.shape == logits.shape and jnp.issubdtype(labels.dtype, jnp.floating)
        if logits.shape[:-1] != labels.shape and not soft:
            raise InputError(
                f"cross-entropy: expected logits [B, K] with labels [B], got logits "
                f"{list(logits.shape)} with labels {list(labels.shape)}; soft targets are "
                "floats of the logits' shape"
            )
        if not soft and not jnp.issubdtype(labels.dtype, jnp.integer):
            raise InputError(
                f"cross-entropy: expected labels that are integers, the number of each row's "
                f"class, got {labels.dtype}; for values to regress on, choose loss='mse'"
            )
        logits = logits.astype(jnp.float32)
        if soft:
            targets = optax.smooth_labels(labels.astype(jnp.float32), label_smoothing)
            of_targets: jax.Array = optax.losses.softmax_cross_entropy(logits, targets)
            return of_targets
        # A one-hot target would take the memory of the logits once more: K is a vocabulary too.
        at_label: jax.Array = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        if not label_smoothing:
            return at_label
        everywhere = jax.nn.logsumexp(logits, axis=-1) - logits.mean(axis=-1)
        return (1 - label_smoothing) * at_label + label_smoothing * everywhere

    return loss_fn


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Compute sigmoid cross-entropy, float32[B], of logits [B] or [B, 1] and labels 0 or 1.

    Logits and labels of [B, K] are K questions that exclude nothing; their losses are averaged.
    """
    logits, labels = _alike("binary_cross_entropy", logits, labels)
    return _per_row(optax.losses.sigmoid_binary_cross_entropy(logits, labels))


def mean_squared_error(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Compute (output - label)², averaged over each row; float32[B]."""
    outputs, labels = _alike("mean_squared_error", outputs, labels)
    return _per_row(optax.losses.squared_error(outputs, labels))


def mean_absolute_error(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Compute |output - label|, averaged over each row; float32[B]."""
    outputs, labels = _alike("mean_absolute_error", outputs, labels)
    return _per_row(jnp.abs(outputs - labels))


def huber(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Compute the Huber loss (1964): squared up to an error of 1, linear beyond."""
    outputs, labels = _alike("huber", outputs, labels)
    return _per_row(optax.losses.huber_loss(outputs, labels))


# Loss by the name that a configuration says.
LOSSES: Final[dict[str, Callable[[], LossFn]]] = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": lambda: binary_cross_entropy,
    "mse": lambda: mean_squared_error,
    "mae": lambda: mean_absolute_error,
    "huber": lambda: huber,
}

# Losses whose labels are numbers of classes, so that they can be checked against the output width.
CLASSES: Final = frozenset({"cross_entropy"})


def loss_by_name(name: str, *, label_smoothing: float = 0.0) -> LossFn:
    """Return the loss of that name.

    Raises:
        ConfigError: no such loss, or label smoothing for one that has no classes.
    """
    if name not in LOSSES:
        raise ConfigError(
            f"loss: unknown name {name!r}; known are {', '.join(LOSSES)}, or give a function "
            "(outputs, labels) → loss of each row",
            loss=name,
        )
    if name == "cross_entropy":
        return cross_entropy(label_smoothing=label_smoothing)
    if label_smoothing:
        raise ConfigError(
            f"label_smoothing {label_smoothing} is for cross_entropy; the loss is {name}"
        )
    return LOSSES[name]()


def _alike(where: str, outputs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Convert both to float32 and the labels' shape; a column [B, 1] stands for [B]."""
    if outputs.shape == (*labels.shape, 1):
        outputs = outputs.reshape(labels.shape)
    if outputs.shape != labels.shape:
        raise InputError(
            f"{where}: outputs and labels must have the same shape, got outputs "
            f"{list(outputs.shape)} and labels {list(labels.shape)}"
        )
    return outputs.astype(jnp.float32), labels.astype(jnp.float32)


def _per_row(values: jax.Array) -> jax.Array:
    """Reduce [B, …] → [B] by the mean over each row."""
    return values.reshape(values.shape[0], -1).mean(axis=1)
