"""Ranking metrics: the receiver operating characteristic and the area under it.

The rule it keeps: ties count half, so the area is the same in whatever order equal scores lie.

Dimension letters: N rows, K classes, P points of a curve.
"""

from __future__ import annotations

import numpy as np

from maas_sdk.errors import InputError
from maas_sdk.tensors import Array

__all__ = ["macro_auc", "roc_auc", "roc_curve"]


def roc_curve(scores: Array, positive: Array) -> tuple[Array, Array]:
    """Return the curve of true over false positive rates as the threshold falls.

    Args:
        scores: float[N], higher is more likely positive.
        positive: bool[N], with at least one of either kind.

    Returns:
        False positive rate and true positive rate, float64[P] each, from (0, 0) to (1, 1); one
        point per distinct score.

    Raises:
        InputError: shapes that differ, a score that is not a number, or only one kind of row.
    """
    if scores.ndim != 1 or scores.shape != positive.shape:
        raise InputError(
            f"scores and positive must both be [N]; got {list(scores.shape)} "
            f"and {list(positive.shape)}"
        )
    if np.isnan(scores).any():
        raise InputError("scores: expected numbers, got NaN: such rows cannot be ranked")
    positives = int(np.count_nonzero(positive))
    if not 0 < positives < len(positive):
        raise InputError(
            f"a ranking needs rows of both kinds, got {positives} positive of {len(positive)}"
        )
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.asarray(positive, bool)[order]
    # The last row of each run of equal scores.
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    true = np.cumsum(hits)[ends]
    false = ends + 1 - true
    zero = np.zeros(1)
    return (
        np.concatenate([zero, false / (len(positive) - positives)]),
        np.concatenate([zero, true / positives]),
    )


def roc_auc(scores: Array, positive: Array) -> float:
    """Return the chance that a positive row scores above a negative one; ties count half.

    The area under ``roc_curve`` by trapezoids, which is the Mann–Whitney statistic (Hanley and
    McNeil 1982). Arguments and errors are those of ``roc_curve``.
    """
    false, true = roc_curve(scores, positive)
    return float(np.trapezoid(true, false))


def macro_auc(logits: Array, labels: Array) -> float | None:
    """Return the mean over classes of one class's area against all others.

    Args:
        logits: float[N, K], ranked by softmax probability. Two classes give the ordinary area.
        labels: integer[N].

    Returns:
        The mean over the classes that have rows inside and outside; None if there is none.

    Raises:
        InputError: a logit that is not a number.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    # Log-probabilities rank as probabilities do, without rounding small ones to equal.
    scores = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    areas = [
        roc_auc(scores[:, k], labels == k)
        for k in range(logits.shape[1])
        if 0 < np.count_nonzero(labels == k) < len(labels)
    ]
    return float(np.mean(areas)) if areas else None
