"""Ranking, regression and language scores, held against scikit-learn and plain sums."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.datasets import load_digits

from maas_sdk.errors import ConfigError, DependencyError, InputError
from maas_sdk.evaluate import evaluate
from maas_sdk.evaluate.accuracy import classification
from maas_sdk.evaluate.language import language
from maas_sdk.evaluate.regression import regression
from maas_sdk.evaluate.speed import measure_latency, percentile


def test_classification_scores_of_digits() -> None:
    """The area does not round small probabilities to ties, and log loss is not clipped."""
    digits = load_digits()
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(500, 10)) + 2 * np.eye(10)[digits.target[:500]]
    labels = digits.target[:500]
    found = classification(logits, labels)
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert found.auc == pytest.approx(metrics.roc_auc_score(labels, odds, multi_class="ovr"))
    assert found.log_loss == pytest.approx(metrics.log_loss(labels, odds))
    assert sum(b.rows for b in found.calibration) == 500
    # e^-900 and e^-800 are both 0 in float64; of class 0 both rows have probability 1, a tie.
    found = classification(np.array([[0.0, -900.0], [0.0, -800.0]]), np.array([0, 1]))
    assert found.auc == pytest.approx((0.5 + 1) / 2)
    assert found.log_loss == pytest.approx(400)


def test_equal_scores_count_half() -> None:
    """Of three pairs one is in order, one is tied and one is the wrong way round: a half."""
    logits = np.array([[0.0, 1.0], [0.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    assert classification(logits, np.array([1, 0, 0, 0])).auc == pytest.approx(0.5)


def test_classes_that_cannot_be_ranked_are_left_out_of_the_area() -> None:
    """One without rows does not count; where all rows are of one class there is no figure."""
    logits = np.array([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [1.0, 0.0, 2.0]])
    assert classification(logits, np.array([0, 1, 1])).auc == pytest.approx((1 + 0.75) / 2)
    assert classification(np.zeros((3, 2)), np.zeros(3, int)).auc is None


def test_a_class_that_is_masked_out_is_judged() -> None:
    """A logit of -inf is a probability of nothing, not a mistake."""
    logits = np.array([[1.0, 0.0, -np.inf], [0.0, 1.0, -np.inf]])
    found = classification(logits, np.array([0, 1]))
    assert (found.accuracy, found.f1, found.auc) == (1, 1, 1)
    assert classification(logits, np.array([0, 2])).log_loss == np.inf


@pytest.mark.parametrize("row", [[0.1, np.nan], [np.inf, 0.0], [-np.inf, -np.inf]])
def test_logits_that_rank_nothing_are_refused(row: list[float]) -> None:
    """NaN compares with nothing; an infinite logit leaves no probabilities."""
    with pytest.raises(InputError, match="logits: expected numbers, got NaN or infinity"):
        classification(np.array([[0.0, 1.0], row]), np.array([0, 1]))


def test_without_scikit_learn_the_install_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the model is asked, and only for classes: a regression needs none of it."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    rows = np.ones((3, 2), np.float32)
    asked: list[int] = []

    def model(x: np.ndarray) -> np.ndarray:
        asked.append(len(x))
        return x

    with pytest.raises(DependencyError, match=r"pip install 'maas-sdk\[evaluate\]'"):
        evaluate(model, (rows, np.zeros(3, int)))
    assert asked == []
    with pytest.raises(DependencyError, match=r"pip install 'maas-sdk\[evaluate\]'"):
        classification(rows, np.zeros(3, int))
    assert evaluate(model, (rows, rows), latency_calls=1).quality.rows == 3


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
