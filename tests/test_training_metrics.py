from __future__ import annotations

import json
from typing import Any

import jax.numpy as jnp
import numpy as np

from maas_sdk.training.metrics import (
    LAG,
    DelayedMetrics,
    MetricAccumulator,
    log_name,
    mean_values,
    pack,
)
from maas_sdk.training.step import Mean, mean_of


def mean(total: float, count: float) -> Mean:
    return Mean(total=jnp.float32(total), count=jnp.float32(count))


def test_means_are_of_rows_and_not_of_batches() -> None:
    """A batch of one row weighs a third of one of three; the learning rate is the last one."""
    sums = MetricAccumulator(["loss", "learning_rate"])
    assert sums.means() == {}
    for loss, rate in ((mean(6, 3), mean(0.5, 1)), (mean(4, 1), mean(0.25, 1))):
        sums.add(np.asarray(pack({"loss": loss, "learning_rate": rate})))
    assert sums.means() == {"loss": 2.5, "learning_rate": 0.25}


def test_sums_go_on_from_json_as_if_nothing_had_been() -> None:
    """To the last bit, wherever they are cut."""
    values = np.random.default_rng(0).random((5, 2, 1), np.float32)
    whole = MetricAccumulator(["loss"])
    part: Any = MetricAccumulator(["loss"])
    for index, value in enumerate(values):
        whole.add(value)
        part.add(value)
        if index == 2:
            state = json.loads(json.dumps(part.get_state()))
            part = MetricAccumulator(["loss"])
            part.set_state(state)
    assert part.means() == whole.means()


class Slow:
    """An array of the device's that says when it is fetched."""

    def __init__(self, value: float, log: list[float]) -> None:
        self._value, self._log = value, log

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        self._log.append(self._value)
        return np.asarray(self._value)


def test_news_are_fetched_steps_later_and_in_order() -> None:
    """At step n nothing younger than n - LAG is touched; a flush fetches the rest."""
    fetched: list[float] = []
    delivered: list[float] = []
    delayed = DelayedMetrics()
    for step in range(1, 11):
        delayed.put(step, Slow(step, fetched), lambda value: delivered.append(float(value)))  # type: ignore[arg-type]
        delayed.deliver(step)
        assert fetched == list(range(1, step - LAG + 1))
    delayed.flush()
    assert fetched == delivered == list(range(1, 11))


def test_names_are_those_of_maxtext() -> None:
    """The learning rate is the one whose own name is not the log's."""
    assert log_name("learning", "loss") == "learning/loss"
    assert log_name("learning", "learning_rate") == "learning/current_learning_rate"
    assert log_name("evaluation", "accuracy") == "evaluation/accuracy"


def test_what_has_no_weight_does_not_count() -> None:
    """Rows and tokens of weight 0, NaN among them; a mean over nothing is 0."""
    values = jnp.asarray([[1.0, 2.0], [3.0, jnp.nan]])
    found = mean_of(values, jnp.asarray([[1.0, 1.0], [1.0, 0.0]]))
    assert (float(found.total), float(found.count), float(found.value)) == (6.0, 3.0, 2.0)
    by_row = mean_of(values, jnp.asarray([2.0, 0.0]))
    assert (float(by_row.total), float(by_row.count)) == (6.0, 4.0)
    assert float(mean_of(values, jnp.zeros(2)).value) == 0.0
    assert mean_values({"loss": found + by_row}) == {"loss": 12 / 7}
