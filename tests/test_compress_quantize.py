from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from maas_sdk.compress.quantize import QuantizedModel, QuantRule, parameters, quantize
from maas_sdk.compress.report import compare
from maas_sdk.demo.digits import load_split
from maas_sdk.errors import ConfigError
from maas_sdk.models.convnet import ConvNet
from maas_sdk.training.trainer import TrainConfig, Trainer

ONE_ROW = np.zeros((1, 8, 8, 1), np.float32)


@pytest.fixture(scope="module")
def model() -> Any:
    config = TrainConfig(epochs=4, precision="bf16", label_smoothing=0.05)
    return Trainer(config).fit(ConvNet(rngs=nnx.Rngs(0)), load_split()).model


@pytest.fixture(scope="module")
def quantized(model: Any) -> QuantizedModel:
    return quantize(model, [ONE_ROW])


def test_every_kernel_becomes_int8_with_a_scale_per_channel(quantized: QuantizedModel) -> None:
    """Kernels are int8 and float32 scales, plain arrays; biases stay."""
    assert quantized.quantized == ("head/kernel", "hidden/kernel", "stem/kernel", "trunk/kernel")
    assert quantized.kept == ("head/bias", "hidden/bias", "stem/bias", "trunk/bias")
    found = {
        path: (value.shape, value.dtype.name)
        for path, value in parameters(quantized.model).items()
        if path.startswith("trunk/")
    }
    assert found == {
        "trunk/bias": ((64,), "float32"),
        "trunk/kernel/qvalue": ((3, 3, 32, 64), "int8"),
        "trunk/kernel/scale": ((1, 1, 1, 64), "float32"),
    }


def test_rounding_is_at_most_half_a_step(model: Any, quantized: QuantizedModel) -> None:
    """Every weight is within half a scale of where it was: absmax clips nothing away."""
    before, after = parameters(model), parameters(quantized.model)
    for path in quantized.quantized:
        scale = np.asarray(after[f"{path}/scale"])
        restored = np.asarray(after[f"{path}/qvalue"]) * scale
        assert np.all(np.abs(restored - np.asarray(before[path])) <= scale * 0.5001)


def test_no_row_depends_on_another(quantized: QuantizedModel) -> None:
    """A row's answer is the same, bit for bit, beside rows of huge values: scales are its own."""
    rows = load_split().test.inputs[:4].copy()
    before = np.asarray(quantized(rows))
    rows[1:] *= 1000
    np.testing.assert_array_equal(np.asarray(quantized(rows))[0], before[0])


def test_nan_ends_in_int8_and_stays_in_its_row(model: Any) -> None:
    """A row of NaN is answered by numbers, as the module says; rows beside it are not touched."""
    small = quantize(model, [ONE_ROW])
    x = np.repeat(np.asarray(ONE_ROW), 3, axis=0)
    expected = np.asarray(small(x))
    x[1] = np.nan
    found = np.asarray(small(x))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[[0, 2]], expected[[0, 2]], rtol=1e-6)


def test_products_are_taken_in_int8(quantized: QuantizedModel) -> None:
    """The program multiplies int8 by int8 into int32: nothing is dequantized first."""
    graphdef, state = nnx.split(quantized.model)

    def call(state: Any, x: jax.Array) -> Any:
        rebuilt: Any = nnx.merge(graphdef, state)
        return rebuilt(x)

    text = jax.jit(call).lower(state, ONE_ROW).as_text()
    products = [
        line
        for line in text.splitlines()
        if "stablehlo.convolution" in line or "stablehlo.dot_general" in line
    ]
    assert len(products) == 4
    assert all(line.count("xi8>") == 2 and "xi32>" in line for line in products)


def test_int8_costs_little_and_saves_much(model: Any, quantized: QuantizedModel) -> None:
    """At most half a percent of accuracy, nearly four times fewer bytes, over 30 dB per kernel."""
    test = load_split().test
    report = compare(model, quantized.model, inputs=test.inputs, labels=test.labels)
    assert report.accuracy_drop <= 0.005
    assert report.agreement >= 0.99
    assert report.ratio > 3.8
    assert report.rows == len(test)
    for layer in report.layers:
        if layer.path.endswith("/kernel"):
            assert (layer.dtype_before, layer.dtype_after) == ("float32", "int8")
            assert layer.error.sqnr_db is not None
            assert layer.error.sqnr_db > 30
        else:
            assert layer.error.max_abs == 0


def test_the_given_model_is_left_alone(model: Any, quantized: QuantizedModel) -> None:
    """Quantizing makes a new model; the old one answers as before, in float32."""
    assert {value.dtype.name for value in parameters(model).values()} == {"float32"}
    assert type(model) is ConvNet


def test_rules_choose_layers(model: Any) -> None:
    """Only what a rule matches is quantized."""
    some = quantize(model, [ONE_ROW], rules=[QuantRule(module_path="hidden", activations=None)])
    assert some.quantized == ("hidden/kernel",)
    assert some(ONE_ROW).shape == (1, 10)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"module_path": "nowhere"}, "module_path 'nowhere'; the model's modules are head, hidden"),
        ({"module_path": "stem", "activations": None}, "requires same act_qtype and weight_qtype"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(
    model: Any, rule: dict[str, Any], message: str
) -> None:
    """A rule that matches nothing, or asks for the impossible, is an error and not a silence."""
    with pytest.raises(ConfigError, match=message):
        quantize(model, [ONE_ROW], rules=[QuantRule(**rule)])


def test_unknown_dtypes_are_refused() -> None:
    """The message says what there is."""
    with pytest.raises(ConfigError, match=r"QuantRule.weights: 'int3' is not supported.*int8"):
        QuantRule(weights="int3")
