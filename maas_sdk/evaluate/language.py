"""Language-model metrics: cross-entropy and perplexity of the tokens.

Dimension letters: N rows, T tokens of a row, V size of the vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from maas_sdk.errors import InputError
from maas_sdk.tensors import Array

__all__ = ["Language", "language"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """Metrics of a language model on tokens."""

    rows: int
    # Tokens that count: those with a weight, or all.
    tokens: int
    # Mean of -log softmax at the token that came, in nats.
    cross_entropy: float
    # exp(cross_entropy): the number of equally likely tokens it would be like choosing from.
    perplexity: float
    # cross_entropy / log 2. For a model of bytes, bits per byte.
    bits_per_token: float
    # Share of tokens whose logit is the largest.
    accuracy: float

    def to_dict(self) -> dict[str, object]:
        """Return the metrics as JSON-ready values."""
        return asdict(self)


def language(logits: Array, labels: Array, weights: Array | None = None) -> Language:
    """Compute the metrics of a language model's answers.

    Args:
        logits: float[N, T, V].
        labels: integer[N, T], the token that came at each place.
        weights: [N, T] or [N], 0 where a token is padding; None counts all.

    Raises:
        InputError: shapes that do not belong together, a label outside 0…V-1, or no tokens.
    """
    if logits.ndim != 3 or labels.shape != logits.shape[:2]:
        raise InputError(
            f"expected logits [N, T, V] and labels [N, T], got {list(logits.shape)} "
            f"and {list(labels.shape)}"
        )
    real = np.ones(labels.shape, bool)
    if weights is not None:
        column = weights[:, None] if weights.ndim == 1 else weights
        if column.shape not in (labels.shape, (len(labels), 1)):
            raise InputError(
                f"weights: expected [N] or [N, T] = {list(labels.shape)}, got {list(weights.shape)}"
            )
        real = np.broadcast_to(column != 0, labels.shape)
    tokens = int(np.count_nonzero(real))
    if not tokens:
        raise InputError("expected at least one token to judge, got none")
    wanted = labels[real]
    size = logits.shape[-1]
    if wanted.min() < 0 or wanted.max() >= size:
        raise InputError(
            f"labels: expected tokens 0 to {size - 1}, got {int(wanted.min())} "
            f"to {int(wanted.max())}"
        )
    surprise, hits = 0.0, 0
    # Row by row: float64 copies of all logits at once would be twice the logits' size.
    for row, label, counts in zip(logits, labels, real, strict=True):
        scores = row[counts].astype(np.float64)
        came = label[counts]
        shifted = scores - scores.max(axis=-1, keepdims=True)
        at_label = shifted[np.arange(len(came)), came]
        surprise += float((np.log(np.exp(shifted).sum(axis=-1)) - at_label).sum())
        hits += int(np.count_nonzero(scores.argmax(axis=-1) == came))
    cross_entropy = surprise / tokens
    return Language(
        rows=len(labels),
        tokens=tokens,
        cross_entropy=cross_entropy,
        perplexity=math.exp(min(cross_entropy, 700.0)),
        bits_per_token=cross_entropy / math.log(2),
        accuracy=hits / tokens,
    )
