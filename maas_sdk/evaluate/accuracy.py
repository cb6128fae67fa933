"""Classification metrics: accuracy, per-class scores, area under ROC, calibration.

The rule it keeps: numpy in, plain numbers out; nothing here depends on the source of the answers,
so the same code evaluates the in-process model and the endpoint. The per-class scores and the area
are scikit-learn's. Log loss is not: scikit-learn clips probabilities, which hides how wrong a
confident answer is. It has no calibration error.

Dimension letters: N rows, K classes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from maas_sdk.errors import DependencyError, InputError
from maas_sdk.tensors import Array

__all__ = [
    "CalibrationBin",
    "ClassScore",
    "Classification",
    "accuracy",
    "classification",
    "confusion_matrix",
    "scikit_learn_metrics",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScore:
    """Precision, recall and F1 of one class. A ratio over nothing is 0."""

    name: str
    # Rows that belong to the class.
    support: int
    # Of the rows called this class, the share that is.
    precision: float
    # Of the rows that are this class, the share called so.
    recall: float
    # Harmonic mean of the two.
    f1: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationBin:
    """Rows whose largest probability lies in one tenth of 0…1."""

    rows: int
    # Mean of the largest probabilities; 0 without rows.
    confidence: float
    # Share of the rows that are right; 0 without rows.
    accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Classification:
    """Metrics of a classifier on labelled rows."""

    rows: int
    # Share of rows whose most likely class is their label.
    accuracy: float
    # Unweighted mean of the classes' F1, over those that occur as a label or as an answer.
    f1: float
    # Area under the ROC curve, one class against the rest, mean over classes; None with one class.
    auc: float | None
    # Mean of -log softmax at the label, in nats.
    log_loss: float
    classes: tuple[ClassScore, ...]
    # [K, K] counts: row = the label, column = what it was called.
    confusion: tuple[tuple[int, ...], ...]
    # Expected calibration error in ten equal bins of confidence (Guo et al. 2017, eq. 3): how far
    # the share of right answers is from the confidence they were given with, on average.
    calibration_error: float
    # The ten bins that the error is taken over, lowest confidence first.
    calibration: tuple[CalibrationBin, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the metrics as JSON-ready values."""
        return asdict(self)


def accuracy(logits: Array, labels: Array) -> float:
    """Return the share of rows whose largest logit is at their label.

    Args:
        logits: float[N, K]; probabilities do as well.
        labels: integer[N].

    Raises:
        InputError: no rows, or shapes that do not belong together.
    """
    _check(logits, labels)
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


def confusion_matrix(predicted: Array, labels: Array, *, classes: int) -> Array:
    """Return counts, int64[K, K], with the label as row and the predicted class as column.

    Args:
        predicted: integer[N], the class that each row was called.
        labels: integer[N], the class that it is.
        classes: K.

    Raises:
        InputError: shapes that differ, or a class outside 0…K-1.
    """
    if predicted.shape != labels.shape or labels.ndim != 1:
        raise InputError(
            f"predicted and labels must both be [N]; got {list(predicted.shape)} "
            f"and {list(labels.shape)}"
        )
    for name, values in (("predicted", predicted), ("labels", labels)):
        if values.size and not (values.min() >= 0 and values.max() < classes):
            raise InputError(
                f"{name}: expected classes 0 to {classes - 1}, "
                f"got {int(values.min())} to {int(values.max())}"
            )
    counts = np.bincount(labels.astype(np.int64) * classes + predicted, minlength=classes**2)
    return counts.reshape(classes, classes)


def classification(
    logits: Array, labels: Array, *, class_names: tuple[str, ...] | None = None
) -> Classification:
    """Compute the metrics of a classifier's answers.

    Args:
        logits: float[N, K].
        labels: integer[N].
        class_names: K names; None numbers them.

    Raises:
        InputError: no rows; shapes, labels or names that do not belong together; a row of logits
            without a finite largest one.
        DependencyError: scikit-learn is not installed.
    """
    _check(logits, labels)
    classes = logits.shape[1]
    names = tuple(map(str, range(classes))) if class_names is None else class_names
    if len(names) != classes:
        raise InputError(f"class_names: expected {classes} names, got {len(names)}")
    predicted = np.argmax(logits, axis=-1)
    counts = confusion_matrix(predicted, labels, classes=classes)
    if not np.isfinite(logits.max(axis=-1).astype(np.float64)).all():
        raise InputError("logits: expected numbers, got NaN or infinity: such rows have no ranking")
    metrics = scikit_learn_metrics()
    scores = metrics.precision_recall_fscore_support(
        labels, predicted, labels=np.arange(classes), zero_division=0.0
    )
    log_probabilities = _log_softmax(logits)
    bins = _bins(np.exp(log_probabilities.max(axis=-1)), predicted == labels)
    return Classification(
        rows=len(labels),
        accuracy=accuracy(logits, labels),
        f1=float(metrics.f1_score(labels, predicted, average="macro", zero_division=0.0)),
        auc=_macro_auc(log_probabilities, labels, metrics.roc_auc_score),
        log_loss=-float(log_probabilities[np.arange(len(labels)), labels].mean()),
        classes=tuple(
            ClassScore(
                name=name,
                support=int(support),
                precision=float(precision),
                recall=float(recall),
                f1=float(f1),
            )
            for name, precision, recall, f1, support in zip(names, *scores, strict=True)
        ),
        confusion=tuple(tuple(row) for row in counts.tolist()),
        calibration_error=sum(b.rows * abs(b.accuracy - b.confidence) for b in bins) / len(labels),
        calibration=bins,
    )


def scikit_learn_metrics() -> Any:
    """Return the module ``sklearn.metrics``, imported here so that other metrics need none of it.

    Raises:
        DependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn import metrics
    except ImportError as error:
        raise DependencyError(
            "a classifier's metrics are computed by scikit-learn, which is not installed: "
            "pip install 'maas-sdk[evaluate]'",
            package="scikit-learn",
        ) from error
    return metrics


def _macro_auc(log_probabilities: Array, labels: Array, roc_auc_score: Any) -> float | None:
    """Return the mean area over the classes with rows inside and outside; None if there is none."""
    found = np.unique(labels)
    if len(found) < 2:
        return None
    # Log-probabilities rank as probabilities do, without rounding small ones to equal; scikit-learn
    # refuses the -inf of a class that is masked out.
    scores = np.maximum(log_probabilities, np.finfo(np.float64).min)
    return float(np.mean([roc_auc_score(labels == k, scores[:, k]) for k in found]))


def _log_softmax(logits: Array) -> Array:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    normalized: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalized


def _bins(confidence: Array, right: Array, bins: int = 10) -> tuple[CalibrationBin, ...]:
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = np.bincount(which, minlength=bins)
    mean_confidence = _ratio(np.bincount(which, weights=confidence, minlength=bins), rows)
    mean_right = _ratio(np.bincount(which, weights=right, minlength=bins), rows)
    return tuple(
        CalibrationBin(
            rows=int(rows[b]), confidence=float(mean_confidence[b]), accuracy=float(mean_right[b])
        )
        for b in range(bins)
    )


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def _check(logits: Array, labels: Array) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise InputError(
            f"expected logits [N, K] and labels [N], got {list(logits.shape)} "
            f"and {list(labels.shape)}"
        )
    if not len(labels):
        raise InputError("expected at least one row to judge, got none")
