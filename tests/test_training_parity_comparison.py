from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maas_sdk.demo.digits import load_split
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.models.convnet import ConvNet
from maas_sdk.training.data import Examples, Split
from maas_sdk.training.early_stopping import EarlyStopping
from maas_sdk.training.optimizer import OptimizerConfig
from maas_sdk.training.parity.comparison import (
    BAR,
    BAR_QUANTIZED,
    LossCurve,
    ParityResult,
    ParityVerdict,
    parity,
)
from maas_sdk.training.parity.page import comparison_page
from maas_sdk.training.precision import Policy
from maas_sdk.training.run.trainer import TrainConfig

CONFIG = TrainConfig(
    epochs=5,
    batch_size=64,
    mesh={"data": 1},
    optimizer=OptimizerConfig(learning_rate=1e-2),
    progress=False,
)
# Masters in bfloat16: small updates are lost in rounding.
NARROW = "p=bf16,c=bf16"


class Network(nnx.Module):
    """Two dense layers over the pixels of a digit."""

    def __init__(self) -> None:
        self.hidden = nnx.Linear(64, 32, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(32, 10, rngs=nnx.Rngs(1))

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.head(nnx.relu(self.hidden(images.reshape(len(images), -1))))


@pytest.fixture(scope="module")
def digits() -> ParityResult:
    """Four runs of one small network on the handwritten digits."""
    return parity(Network(), load_split(), ("f32", "bf16", "int8", NARROW), config=CONFIG)


@pytest.mark.slow
def test_bf16_and_int8_are_within_their_bars(digits: ParityResult) -> None:
    """On real digits bfloat16 is within 0.01 of float32, int8 within 0.02; the runs did learn."""
    by_name = {verdict.candidate: verdict for verdict in digits.verdicts}
    assert [by_name[name].bar for name in ("bf16", "int8")] == [BAR, BAR_QUANTIZED] == [0.01, 0.02]
    assert by_name["bf16"].gap <= 0.01, digits.table()
    assert by_name["int8"].gap <= 0.02, digits.table()
    # Another arithmetic it was all the same.
    assert by_name["bf16"].gap > 0
    assert by_name["int8"].gap > 0
    assert digits.noise is None
    reference = digits.curves[0]
    assert len(reference.losses) == 5 * (len(load_split().train) // 64)
    assert reference.losses[0] > 2.2
    assert reference.final < 0.5


@pytest.mark.slow
def test_a_policy_that_is_worse_is_beyond_its_bar(digits: ParityResult) -> None:
    """bfloat16 masters lose small updates, and the whole result fails with them."""
    verdict = digits.worst
    assert verdict.candidate == NARROW
    assert verdict.gap > 0.01, digits.table()
    assert (verdict.passed, digits.passed) == (False, False)
    assert (digits.gap, digits.bar) == (verdict.gap, verdict.bar)


@pytest.mark.slow
def test_the_gap_against_numpy(digits: ParityResult) -> None:
    """The mean distance over the last tenth of the steps; final losses are means over the same."""
    first, second = (np.array(curve.losses) for curve in digits.curves[:2])
    tail = math.ceil(0.1 * len(first))
    assert 1 < tail < len(first)
    verdict = digits.verdicts[0]
    np.testing.assert_allclose(verdict.gap, np.abs(first - second)[-tail:].mean())
    np.testing.assert_allclose(verdict.difference, second[-tail:].mean() - first[-tail:].mean())
    np.testing.assert_allclose(digits.curves[1].final, second[-tail:].mean())
    # A loss above at one step does not make up for one below at another.
    assert verdict.gap >= abs(verdict.difference) - 1e-12


@pytest.mark.slow
def test_only_the_policy_differs() -> None:
    """The same policy under two names gives a gap of exactly nothing: weights, rows and order.

    A control, from weights that were disturbed, does not.
    """
    model = Network()
    before = jax.tree.map(jnp.copy, nnx.state(model))
    split = load_split()
    few = Split(train=split.train.take(np.arange(256)), test=split.test.take(np.arange(64)))
    steps: list[tuple[str, int, int]] = []
    result = parity(
        lambda: model,
        few,
        ("f32", Policy()),
        config=replace(CONFIG, epochs=1),
        control=True,
        progress=lambda *step: steps.append(step),
    )
    assert result.gap == 0
    assert result.passed
    assert result.curves[0].losses == result.curves[1].losses
    assert dict(result.curves[0].eval) == dict(result.curves[1].eval)
    # The control's weights were changed a little, and it shows.
    assert result.noise is not None
    assert 0 < result.noise < 0.1
    assert result.rows()[-1][0] == "f32, disturbed"
    assert result.rows()[-1][-1] == "control"
    assert result.to_dict()["noise"] == result.noise
    assert f"{result.noise:.4f}" in comparison_page(result)
    names = ["f32", str(Policy()), "f32, disturbed"]
    assert steps == [(name, step, 4) for name in names for step in range(1, 5)]
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(nnx.state(model)), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
def test_what_is_shown(digits: ParityResult) -> None:
    """Table, JSON and page say the same figures; the page has both pictures of each candidate."""
    table = digits.table().splitlines()
    assert table[0].split("  ")[0] == "policy"
    assert [line.split()[0] for line in table[1:]] == ["f32", "bf16", "int8", NARROW]
    assert [line.split()[-1] for line in table[1:]] == ["reference", "within", "within", "beyond"]
    document = json.loads(json.dumps(digits.to_dict()))
    assert document["passed"] is False
    assert document["verdicts"][0]["gap"] == digits.verdicts[0].gap
    assert document["curves"][2]["policy"] == str(Policy(quantized="int8"))
    assert document["curves"][0]["losses"] == list(digits.curves[0].losses)
    page = comparison_page(digits)
    for words in (f"{digits.verdicts[0].gap:.4f}", "✕ 1 of 3 beyond the bar", "held-out right"):
        assert words in page
        assert words == "✕ 1 of 3 beyond the bar" or words in digits.table()
    assert page.count("<svg") == 2 * 3
    good = replace(digits, curves=digits.curves[:3], verdicts=digits.verdicts[:2])
    assert "✓ within the bar: bf16, int8" in comparison_page(good)


class Explosive(nnx.Module):
    """Overflows float16, whose largest number is 65,504; bfloat16 and float32 have no trouble."""

    def __init__(self) -> None:
        self.head = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(x) * 6e4 * 6e4 / 6e4 / 6e4


def rows(count: int = 64) -> Examples:
    random = np.random.default_rng(0)
    return Examples(
        inputs=(1 + random.random((count, 4))).astype(np.float32), labels=np.arange(count) % 3
    )


def test_a_candidate_that_breaks_fails_with_its_reason() -> None:
    """A loss that is not finite is no error but the verdict, with the step and the reason."""
    result = parity(Explosive(), rows(), ("f32", "f16"), config=replace(CONFIG, batch_size=16))
    assert not result.passed
    assert result.gap == math.inf
    broken = result.curves[1]
    assert "step 1: loss or gradients are not finite" in broken.broke
    assert broken.broke in result.table()
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert document["gap"] is None
    assert "the run broke" in comparison_page(result)


def test_a_reference_that_breaks_is_an_error() -> None:
    """There is nothing to compare with."""
    with pytest.raises(InputError, match="step 1: loss or gradients are not finite"):
        parity(Explosive(), rows(), ("f16", "f32"), config=replace(CONFIG, batch_size=16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policies": ("f32",)}, "expected two different policies or more, got f32"),
        ({"policies": ("f32", "f32")}, "expected two different policies or more, got f32, f32"),
        ({"policies": ("f32", "int3")}, "unknown dtype compute='int3'"),
        ({"bar": 0.0}, "bar: expected more than 0, got 0.0"),
        ({"data": iter([])}, "data: every run goes through it from its beginning, and an iterator"),
        ({"model": lambda: 3}, "expected a flax.nnx module, got int"),
        ({"model": 3}, "expected a flax.nnx module, got int"),
        ({"model": Explosive}, "got the class Explosive: expected a module of it, or a function"),
        (
            {"config": replace(CONFIG, early_stopping=EarlyStopping(patience=1))},
            "early_stopping would end the runs at different steps",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(options: dict[str, Any], message: str) -> None:
    """Before anything is trained."""
    with pytest.raises(ConfigError, match=message):
        parity(**{"model": Explosive(), "data": rows(), "policies": ("f32", "bf16"), **options})


@pytest.mark.slow
def test_a_bar_of_ones_own(digits: ParityResult) -> None:
    """The bar is the caller's, and a gap that is not a number meets none."""

    def verdict(gap: float, bar: float) -> ParityVerdict:
        return ParityVerdict(reference="a", candidate="b", gap=gap, bar=bar, difference=0.0)

    made: Callable[..., ParityResult] = lambda *verdicts: ParityResult(  # noqa: E731
        curves=(LossCurve(name="a", policy=Policy(), losses=(1.0,)),), verdicts=verdicts
    )
    assert made(verdict(0.5, 0.5)).passed
    assert not made(verdict(math.nan, 0.5)).passed
    assert not made(verdict(0.1, 0.5), verdict(0.6, 0.5)).passed
    assert made(verdict(0.1, 1.0), verdict(0.09, 0.1)).worst.gap == 0.09


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["bf16", "int8", "int8_full", "fp8", "fp8_full"])
def test_every_format_trains_the_digits(name: str) -> None:
    """The demo's whole network until it knows the digits: every format within its bar."""
    config = replace(CONFIG, epochs=12, optimizer=OptimizerConfig())
    result = parity(ConvNet(rngs=nnx.Rngs(0)), load_split(), ("f32", name), config=config)
    assert result.passed, result.table()
    for curve in result.curves:
        assert curve.eval["accuracy"] > 0.97, result.table()
