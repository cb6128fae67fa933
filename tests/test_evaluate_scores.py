"""Ranking, regression and language scores, held against scikit-learn, scipy and plain sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.datasets import load_digits

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.evaluate.accuracy import classification
from maas_sdk.evaluate.language import language
from maas_sdk.evaluate.ranking import macro_auc, roc_auc, roc_curve
from maas_sdk.evaluate.regression import regression
from maas_sdk.evaluate.speed import measure_latency, percentile


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
def test_the_area_is_scikit_learns_also_with_ties(rows: list[tuple[int, bool]]) -> None:
    """Whatever the ties, the area and the curve's ends are right."""
    scores = np.array([score for score, _ in rows], np.float64)
    positive = np.array([hit for _, hit in rows])
    if positive.all() or not positive.any():
        with pytest.raises(InputError, match="both kinds"):
            roc_auc(scores, positive)
        return
    assert roc_auc(scores, positive) == pytest.approx(metrics.roc_auc_score(positive, scores))
    false, true = roc_curve(scores, positive)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)


def test_classification_scores_are_scikit_learns() -> None:
    """F1, area and log loss on real digits with noisy logits."""
    digits = load_digits()
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(500, 10)) + 2 * np.eye(10)[digits.target[:500]]
    labels = digits.target[:500]
    found = classification(logits, labels)
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert found.f1 == pytest.approx(metrics.f1_score(labels, logits.argmax(1), average="macro"))
    assert found.auc == pytest.approx(metrics.roc_auc_score(labels, odds, multi_class="ovr"))
    assert found.log_loss == pytest.approx(metrics.log_loss(labels, odds))
    assert sum(b.rows for b in found.calibration) == 500


def test_one_class_alone_has_no_area() -> None:
    """Where nothing can be ranked there is no figure, rather than a made-up one."""
    assert macro_auc(np.zeros((3, 2)), np.zeros(3, int)) is None


def test_a_score_that_is_nan_is_refused() -> None:
    """NaN compares with nothing, so it would rank anywhere."""
    with pytest.raises(InputError, match="NaN"):
        roc_auc(np.array([0.1, np.nan]), np.array([True, False]))


def test_regression_scores_are_scikit_learns() -> None:
    """Errors and R² of numbers with a spread."""
    generator = np.random.default_rng(0)
    targets = generator.normal(size=200) * 3 + 5
    outputs = targets + generator.normal(size=200)
    found = regression(outputs[:, None].astype(np.float32), targets)
    assert found.mse == pytest.approx(metrics.mean_squared_error(targets, outputs), rel=1e-5)
    assert found.mae == pytest.approx(metrics.mean_absolute_error(targets, outputs), rel=1e-5)
    assert found.r2 == pytest.approx(metrics.r2_score(targets, outputs), rel=1e-5)
    assert found.max_error == pytest.approx(np.abs(outputs - targets).max(), rel=1e-5)
    assert regression(np.ones(3), np.ones(3)).r2 is None


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (np.zeros((3, 2)), np.zeros(3), "one shape"),
        (np.zeros(0), np.zeros(0), "at least one row"),
        (np.array([1.0, np.inf]), np.zeros(2), "outputs: expected finite"),
    ],
)
def test_a_regression_that_cannot_be_judged(
    outputs: np.ndarray, targets: np.ndarray, message: str
) -> None:
    """Each mistake has a sentence of its own."""
    with pytest.raises(InputError, match=message):
        regression(outputs, targets)


def test_perplexity_is_that_of_the_tokens_that_count() -> None:
    """Padding is left out; a uniform guess over V has perplexity V."""
    logits = np.zeros((2, 3, 4), np.float32)
    logits[1, :, 0] = 50.0
    labels = np.array([[1, 2, 3], [0, 0, 3]])
    weights = np.array([[1, 1, 1], [1, 1, 0]])
    found = language(logits, labels, weights)
    assert found.tokens == 5
    assert found.cross_entropy == pytest.approx(3 * math.log(4) / 5)
    assert found.bits_per_token == pytest.approx(3 * 2 / 5)
    assert found.perplexity == pytest.approx(4 ** (3 / 5))
    assert language(logits, labels, np.array([1, 0])).perplexity == pytest.approx(4)


@pytest.mark.parametrize(
    ("labels", "weights", "message"),
    [
        (np.array([[1, 4]]), None, "tokens 0 to 3, got 1 to 4"),
        (np.array([[1, 2, 3]]), None, r"labels \[N, T\], got \[1, 2, 4\] and \[1, 3\]"),
        (np.array([[1, 2]]), np.zeros((1, 2)), "at least one token"),
        (np.array([[1, 2]]), np.zeros(5), r"weights: expected"),
    ],
)
def test_a_language_model_that_cannot_be_judged(
    labels: np.ndarray, weights: np.ndarray | None, message: str
) -> None:
    """Each mistake has a sentence of its own."""
    with pytest.raises(InputError, match=message):
        language(np.zeros((1, 2, 4)), labels, weights)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_percentile_is_a_value_that_was_seen(values: list[float], share: float) -> None:
    """At least that share of the values are not above it, and no smaller value does as well."""
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6
    smaller = [value for value in values if value < found]
    assert not smaller or sum(v <= max(smaller) for v in values) < share * len(values) + 1e-6


def test_the_first_call_is_told_apart() -> None:
    """What compiles or loads does not spoil the percentiles."""
    seen: list[int] = []
    found = measure_latency(lambda: seen.append(1), calls=3)
    assert len(seen) == 4
    assert len(found.samples_s) == found.calls == 3
    assert found.p50_s <= found.p99_s <= found.max_s
    with pytest.raises(InputError):
        percentile([], 0.5)
    with pytest.raises(ConfigError, match="0 < share"):
        percentile([1.0], 0.0)
