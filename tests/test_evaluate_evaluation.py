"""A model judged as a whole, whatever answers: module, function, engine, endpoint."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from flax import nnx
from sklearn.datasets import load_diabetes, load_iris

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.evaluate import evaluate
from maas_sdk.evaluate.accuracy import Classification
from maas_sdk.evaluate.cost import PEAK_FLOPS, matmul_ceiling, peak_flops
from maas_sdk.evaluate.language import Language
from maas_sdk.evaluate.regression import Regression
from maas_sdk.runtime import load

IRIS = load_iris()
ROWS = IRIS.data.astype(np.float32)


class Iris(nnx.Module):
    """One dense layer, and a dropout that must be off."""

    def __init__(self) -> None:
        self.head = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
        self.noise = nnx.Dropout(0.5, rngs=nnx.Rngs(1))

    def __call__(self, rows: Any) -> Any:
        return self.noise(self.head(rows))


@pytest.fixture(scope="module")
def module() -> Iris:
    model = Iris()
    model.eval()
    return model


def test_a_module_a_function_and_an_engine_are_judged_alike(module: Iris, tiny_bundle: Any) -> None:
    """The same rows through different doors give the same quality."""
    found = evaluate(module, (ROWS, IRIS.target), latency_calls=2, batch_size=40)
    weights, bias = np.asarray(module.head.kernel), np.asarray(module.head.bias)
    by_hand = evaluate(lambda x: x @ weights + bias, (ROWS, IRIS.target), latency_calls=2)
    assert isinstance(found.quality, Classification)
    assert isinstance(by_hand.quality, Classification)
    assert found.quality.accuracy == by_hand.quality.accuracy
    assert found.quality.log_loss == pytest.approx(by_hand.quality.log_loss, rel=1e-5)
    with load(tiny_bundle) as engine:
        x, labels = np.eye(4, dtype=np.float32), np.array([2, 2, 2, 0])
        judged = evaluate(engine, (x, labels), latency_calls=1)
    assert isinstance(judged.quality, Classification)
    # The bundle multiplies by arange(12) as [4, 3]: the largest output is always the last.
    assert judged.quality.accuracy == 0.75


def test_a_last_batch_that_is_smaller_is_answered_whole(module: Iris) -> None:
    """150 rows in batches of 64 are 150 answers, each the one it has alone."""
    in_batches = evaluate(module, (ROWS, IRIS.target), latency_calls=1, batch_size=64)
    at_once = evaluate(module, (ROWS, IRIS.target), latency_calls=1, batch_size=150)
    assert in_batches.quality.rows == 150
    assert isinstance(in_batches.quality, Classification)
    assert isinstance(at_once.quality, Classification)
    assert in_batches.quality.confusion == at_once.quality.confusion
    assert in_batches.quality.log_loss == pytest.approx(at_once.quality.log_loss, rel=1e-5)


def test_flops_are_the_programs(module: Iris) -> None:
    """A dense layer of 4 × 3 is 24 flop for the product and 3 for the bias, per row."""
    found = evaluate(module, (ROWS, IRIS.target), latency_calls=1, ceiling_flops=1e9)
    assert found.cost is not None
    assert found.cost.flops_per_row == pytest.approx(27, rel=0.15)
    assert found.cost.mfu == pytest.approx(found.cost.flops_per_row * found.rows_per_s / 1e9)
    assert found.cost.ceiling_source == "given"
    assert evaluate(lambda x: x, (ROWS[:, :3], IRIS.target), latency_calls=1).cost is None


def test_labels_tell_the_task() -> None:
    """Whole numbers are classes, with a second dimension tokens, floats targets."""
    diabetes = load_diabetes()
    mean = np.full((442, 1), diabetes.target.mean(), np.float32)
    found = evaluate(lambda x: mean[: len(x)], (diabetes.data, diabetes.target), latency_calls=1)
    assert isinstance(found.quality, Regression)
    assert found.quality.r2 == pytest.approx(0, abs=1e-6)
    assert len(found.pairs) >= 100
    tokens = np.arange(12).reshape(3, 4) % 5
    found = evaluate(lambda x: np.zeros((len(x), 4, 5)), (tokens, tokens), latency_calls=1)
    assert isinstance(found.quality, Language)
    assert found.quality.perplexity == pytest.approx(5)


def test_an_output_is_picked_by_name() -> None:
    """Of several outputs one is judged; not to say which is an error that names them."""

    def two(x: Any) -> dict[str, Any]:
        return {"logits": x[:, :3], "hidden": x}

    found = evaluate(two, (ROWS, IRIS.target), output="logits", latency_calls=1)
    assert found.quality.rows == 150
    with pytest.raises(InputError, match=r"answers with logits, hidden; say which"):
        evaluate(two, (ROWS, IRIS.target), latency_calls=1)
    with pytest.raises(InputError, match=r"output='probabilities' is not among them"):
        evaluate(two, (ROWS, IRIS.target), output="probabilities", latency_calls=1)


def test_memory_is_that_of_the_work() -> None:
    """An answer of 80 MB that is made and dropped shows as growth of the process."""

    def large(x: Any) -> Any:
        np.ones(10_000_000).sum()
        return x[:, :3]

    found = evaluate(large, (ROWS, IRIS.target), latency_calls=1)
    growth, peak = found.memory.process_growth_bytes, found.memory.process_peak_bytes
    if growth is None or peak is None:
        pytest.skip("this system has no /proc/self/clear_refs")
    assert growth > 60e6
    assert peak > growth


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": (ROWS[:0], IRIS.target[:0])}, "at least one row to judge"),
        ({"data": (ROWS, IRIS.target[:-1])}, r"150 rows of inputs, but labels of shape \[149\]"),
        ({"data": ({"a": ROWS, "b": ROWS[:3]}, IRIS.target)}, "one number of rows"),
        ({"data": ROWS}, r"a pair \(inputs, labels\)"),
        ({"task": "guessing"}, "expected one of classification, regression, language"),
        ({"batch_size": 0}, "batch_size: expected 1 or more, got 0"),
        ({"latency_calls": 0}, "calls: expected 1 or more, got 0"),
        ({"model_or_endpoint": 3}, "got int"),
        ({"model_or_endpoint": lambda x: x[:2]}, r"answered 64 rows with .* \[2, 4\]"),
    ],
)
def test_what_cannot_be_judged_is_said(change: dict[str, Any], message: str) -> None:
    """Each mistake has a sentence of its own."""
    good: dict[str, Any] = {
        "model_or_endpoint": lambda x: x[:, :3],
        "data": (ROWS, IRIS.target),
        "latency_calls": 1,
    }
    with pytest.raises((ConfigError, InputError), match=message):
        evaluate(**{**good, **change})


def test_the_document_is_json(module: Iris) -> None:
    """What the command line prints can be read back, and holds each part."""
    found = evaluate(module, (ROWS, IRIS.target), latency_calls=2, name="iris")
    document = json.loads(json.dumps(found.to_dict()))
    assert document["name"] == "iris"
    assert {"quality", "latency", "rows_per_s", "memory", "cost", "where"} <= document.keys()
    assert document["latency"]["calls"] == 2


def test_ceilings() -> None:
    """A product's rate is its flop over its time; a device that is not in the table has no peak."""
    ticks = iter(range(100))
    assert matmul_ceiling(size=8, repeats=2, clock=lambda: next(ticks)) == 2 * 8**3
    import jax

    assert peak_flops(jax.devices("cpu")[0]) is None
    assert all(flops > 1e14 for _, flops in PEAK_FLOPS)
    with pytest.raises(ConfigError, match="1 or more"):
        matmul_ceiling(repeats=0)
