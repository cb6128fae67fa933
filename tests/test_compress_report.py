from __future__ import annotations

import json

import numpy as np
import pytest
from flax import nnx

from maas_sdk.compress.quantize import quantize
from maas_sdk.compress.report import compare, tensor_error
from maas_sdk.errors import InputError
from maas_sdk.models.convnet import ConvNet

ROWS = np.random.default_rng(0).random((6, 8, 8, 1), np.float32)
LABELS = np.arange(6, dtype=np.int32)


def test_bytes_are_those_of_the_arrays() -> None:
    """One byte for each weight, four for each bias and scale, counted by hand."""
    model = ConvNet(rngs=nnx.Rngs(0), features=(2, 3), hidden_features=5)
    report = compare(model, quantize(model, [ROWS]).model, inputs=ROWS, labels=LABELS)
    kernels = {"stem": 9 * 2, "trunk": 9 * 2 * 3, "hidden": 4 * 4 * 3 * 5, "head": 5 * 10}
    outputs = {"stem": 2, "trunk": 3, "hidden": 5, "head": 10}
    found = {layer.path: (layer.bytes_before, layer.bytes_after) for layer in report.layers}
    for name, count in outputs.items():
        assert found[f"{name}/kernel"] == (4 * kernels[name], kernels[name] + 4 * count)
        assert found[f"{name}/bias"] == (4 * count, 4 * count)
    assert len(found) == 8
    assert report.bytes_before == sum(before for before, _ in found.values())
    assert report.bytes_after == sum(after for _, after in found.values())


def test_a_model_against_itself() -> None:
    """Nothing saved, nothing lost."""
    model = ConvNet(rngs=nnx.Rngs(0))
    report = compare(model, model, inputs=ROWS, labels=LABELS)
    assert (report.ratio, report.accuracy_drop, report.agreement) == (1.0, 0.0, 1.0)
    assert report.output_error.sqnr_db is None


def test_the_report_is_json() -> None:
    """``to_dict`` holds plain values only, the derived figures too."""
    model = ConvNet(rngs=nnx.Rngs(0))
    report = compare(model, quantize(model, [ROWS]).model, inputs=ROWS, labels=LABELS)
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert document["ratio"] == report.ratio
    assert document["accuracy_drop"] == report.accuracy_drop
    assert document["layers"][0]["error"].keys() == {"max_abs", "relative_l2", "sqnr_db"}


def test_tensor_errors_against_numpy() -> None:
    """Pinned on a case that can be done by hand; no noise has no SQNR."""
    before, after = np.array([3.0, 4.0]), np.array([3.0, 4.5])
    error = tensor_error(before, after)
    assert (error.max_abs, error.relative_l2) == (0.5, 0.1)
    assert error.sqnr_db == pytest.approx(20.0)
    assert tensor_error(before, before).sqnr_db is None
    assert tensor_error(np.zeros(2), np.zeros(2)).relative_l2 == 0
    with pytest.raises(InputError, match=r"shape \[2\] with one of \[3\]"):
        tensor_error(before, np.zeros(3))


def test_models_of_different_kinds_cannot_be_compared() -> None:
    """The message names the parameter that is missing."""
    model = ConvNet(rngs=nnx.Rngs(0))
    other = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match="has no parameter 'head/bias'; it has bias, kernel"):
        compare(model, other, inputs=ROWS, labels=LABELS)
