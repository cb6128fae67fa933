from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from maas_sdk.compress.task_metric import Score, judge_of, predictor
from maas_sdk.errors import ModelError
from maas_sdk.model.adapt import adapt

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(50, 4)).astype(np.float32)
LABELS = RNG.integers(0, 4, 50)


def test_accuracy_is_the_share_of_right_rows() -> None:
    """Labels per row, and per token of a row."""
    judge = judge_of((LOGITS, LABELS))
    score = judge.score(lambda rows: rows)
    assert judge.metric == "accuracy"
    assert score.value == pytest.approx((LOGITS.argmax(1) == LABELS).mean())
    tokens = LOGITS.reshape(10, 5, 4)
    by_token = judge_of(SimpleNamespace(inputs=tokens, labels=LABELS.reshape(10, 5)))
    score = by_token.score(lambda rows: {"logits": rows})
    assert score.value == pytest.approx((LOGITS.argmax(1) == LABELS).mean())
    assert score.rows is not None
    assert score.rows.shape == (10,)


def test_the_difference_comes_with_its_standard_error() -> None:
    """Rows are paired: σ of the differences / √N."""
    before = Score(value=0.75, rows=np.array([1.0, 1, 1, 0]))
    after = Score(value=0.5, rows=np.array([1.0, 0, 1, 0]))
    drop, error = after.drop_from(before)
    assert drop == 0.25
    assert error == pytest.approx(np.array([0, 1, 0, 0]).std(ddof=1) / 2)
    assert Score(value=0.5).drop_from(Score(value=0.75)) == (0.25, 0.0)


def test_a_function_is_the_metric() -> None:
    """It is called by its name."""

    def likeness(predict: Any) -> float:
        return -float(np.abs(predict(LOGITS) - LOGITS).max())

    judge = judge_of(likeness)
    assert judge.metric == "likeness"
    assert judge.score(lambda rows: rows) == Score(value=0.0)


def test_predictions_of_any_number_of_rows() -> None:
    """One shape is compiled: the last batch is filled up and cut again."""
    traced = []

    def apply(weights: Any, x: Any) -> Any:
        traced.append(x.shape)
        return {"y": x @ weights["w"], "z": x.sum(axis=1)}

    weights = {"w": RNG.normal(size=(4, 3)).astype(np.float32)}
    predict = predictor(adapt(apply, weights), batch_size=16)
    found = predict(LOGITS)
    np.testing.assert_allclose(found["y"], LOGITS @ weights["w"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["z"], LOGITS.sum(axis=1), rtol=1e-5, atol=1e-6)
    assert set(traced) == {(16, 4)}


def test_a_model_that_fails() -> None:
    """Its own words are passed on."""
    predict = predictor(adapt(lambda w, x: x @ jnp.ones((3, 3)) + w["w"], {"w": np.ones((2, 2))}))
    with pytest.raises(ModelError, match="the model failed while it answered: "):
        predict(LOGITS)
