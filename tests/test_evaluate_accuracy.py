from __future__ import annotations

import json

import numpy as np
import pytest

from maas_sdk.errors import InputError
from maas_sdk.evaluate.accuracy import accuracy, classification, confusion_matrix

GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.normal(size=(200, 5))
LABELS = GENERATOR.integers(0, 5, size=200)


def test_accuracy_is_the_share_of_rows_that_are_right() -> None:
    """Counted by hand on four rows."""
    logits = np.array([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0], [0.0, 1.0]])
    assert accuracy(logits, np.array([0, 1, 1, 1])) == 0.75


def test_a_judgement_counted_by_hand() -> None:
    """Of three rows of class 0 two are called so; of two of class 1, one; none is of class 2."""
    judged = classification(np.eye(3)[[0, 0, 1, 1, 2]], np.array([0, 0, 0, 1, 1]))
    assert judged.confusion == ((2, 1, 0), (0, 1, 1), (0, 0, 0))
    found = [(one.precision, one.recall, one.f1, one.support) for one in judged.classes]
    expected = [(1.0, 2 / 3, 0.8, 3), (0.5, 0.5, 0.5, 2), (0.0, 0.0, 0.0, 0)]
    np.testing.assert_allclose(found, expected)
    assert judged.f1 == pytest.approx((0.8 + 0.5 + 0.0) / 3)
    assert (judged.rows, judged.accuracy) == (5, 0.6)


def test_a_class_that_never_comes_scores_zero_without_a_warning() -> None:
    """A ratio over nothing is 0."""
    judged = classification(np.array([[9.0, 0.0, 0.0]]), np.array([0]), class_names=("a", "b", "c"))
    assert [(one.name, one.support, one.f1) for one in judged.classes] == [
        ("a", 1, 1.0),
        ("b", 0, 0.0),
        ("c", 0, 0.0),
    ]
    assert judged.f1 == 1.0


def test_calibration_error_of_a_known_case() -> None:
    """Rows given 75 % confidence, half of them right: the error is a quarter."""
    logits = np.log(np.array([[0.75, 0.25]] * 4))
    assert classification(logits, np.array([0, 0, 1, 1])).calibration_error == pytest.approx(0.25)


def test_the_judgement_is_json() -> None:
    """``to_dict`` holds plain values only."""
    document = json.loads(json.dumps(classification(LOGITS, LABELS).to_dict()))
    assert document["rows"] == 200
    assert len(document["classes"]) == len(document["confusion"]) == 5


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "at least one row"),
        (np.zeros(3), np.zeros(3, int), r"logits \[N, K\] and labels \[N\], got \[3\]"),
        (np.zeros((3, 2)), np.zeros(2, int), r"got \[3, 2\] and \[2\]"),
        (np.zeros((2, 2)), np.array([0, 2]), "labels: expected classes 0 to 1, got 0 to 2"),
        (np.zeros((2, 2)), np.array([-1, 0]), "got -1 to 0"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    logits: np.ndarray, labels: np.ndarray, message: str
) -> None:
    """The message shows both shapes, or the label that is out of range."""
    with pytest.raises(InputError, match=message):
        classification(logits, labels)


def test_names_and_shapes_must_fit() -> None:
    """One name for each class; one prediction for each label."""
    with pytest.raises(InputError, match="expected 5 names, got 1"):
        classification(LOGITS, LABELS, class_names=("a",))
    with pytest.raises(InputError, match=r"got \[1\] and \[2\]"):
        confusion_matrix(np.zeros(1, int), np.zeros(2, int), classes=2)
