"""What quantize refuses, each before any work is lost, and in which words."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from maas_sdk.compress.quantize import quantize
from maas_sdk.errors import ConfigError, InputError, MaasError

RNG = np.random.default_rng(0)
WEIGHTS = {
    "hidden": {"kernel": RNG.normal(size=(16, 32)).astype(np.float32)},
    "head": {"kernel": RNG.normal(size=(32, 8)).astype(np.float32)},
}
ROWS = RNG.normal(size=(12, 16)).astype(np.float32)
LABELS = np.arange(12) % 8


def apply(weights: Mapping[str, Any], x: Any) -> Any:
    return jnp.tanh(x @ weights["hidden"]["kernel"]) @ weights["head"]["kernel"]


def changed(at: tuple[int, ...], value: float) -> np.ndarray:
    rows = ROWS.copy()
    rows[at] = value
    return rows


REFUSED: dict[str, tuple[dict[str, Any], type[MaasError], str]] = {
    "a pattern that matches nothing": (
        {"include": "hiden/.*"},
        ConfigError,
        r"include: no layer and no weight matches 'hiden/\.\*'; nearest are hidden.*there are head",
    ),
    "an exclusion that matches nothing": (
        {"exclude": ("head", "tail")},
        ConfigError,
        "exclude: no layer and no weight matches 'tail'",
    ),
    "an override for nothing": (
        {"overrides": {"head/kernels": None}},
        ConfigError,
        "overrides: no weight 'head/kernels'; nearest are head/kernel",
    ),
    "nothing left": (
        {"exclude": ".*"},
        ConfigError,
        "nothing is left to quantize: the weights are hidden/kernel, head/kernel",
    ),
    "no regular expression": (
        {"include": "(head"},
        ConfigError,
        r"Recipe.include: '\(head' is no regular expression",
    ),
    "no such recipe": (
        {"recipe": "int7"},
        ConfigError,
        "unknown recipe 'int7'; known are int8, .*kmeans4",
    ),
    "no such field": ({"bit": 4}, ConfigError, "recipe int8: no field bit; there are "),
    "bits that a kind does not have": (
        {"recipe": "int8w", "bits": 5},
        ConfigError,
        r"Format.bits: integer has 2, 4, 8 bits, got 5; codebooks \(kmeans\) have 2 to 8",
    ),
    "bits of a codebook": (
        {"recipe": "kmeans9"},
        ConfigError,
        "Format.bits: kmeans has 2, 3, 4, 5, 6, 7, 8 bits, got 9",
    ),
    "a fixed point of odd bits": (
        {"recipe": "Q3.3"},
        ConfigError,
        r"recipe Q3.3: 1 \+ m \+ n bits must be one of 2, 4, 8, got 7",
    ),
    "a method for another kind": (
        {"recipe": "gptq", "kind": "kmeans"},
        ConfigError,
        "gptq rounds to whole numbers; weights are kmeans",
    ),
    "float8 where there is none": (
        {"recipe": "fp8", "target": "tpu-v5e"},
        ConfigError,
        "recipe fp8: tpu-v5e multiplies no float8 .*Use int8, or fp8w",
    ),
    "no such target": (
        {"target": "gpu"},
        ConfigError,
        "target 'gpu': expected a name such as cpu-x86_64-avx2, cuda-sm90 or tpu-v5e",
    ),
    "no calibration": (
        {"recipe": "gptq", "calibration": None, "example_inputs": ROWS},
        ConfigError,
        "recipe gptq looks at what goes into the layers: pass calibration=rows",
    ),
    "no rows at all": (
        {"calibration": None},
        ConfigError,
        "example_inputs: none given, .*pass example_inputs=rows",
    ),
    "an empty calibration": (
        {"recipe": "gptq", "calibration": ROWS[:0], "example_inputs": ROWS},
        InputError,
        "calibration: there are no rows",
    ),
    "NaN": (
        {"recipe": "gptq", "calibration": changed((5, 3), np.nan), "example_inputs": ROWS},
        InputError,
        "calibration: row 5 of 'input' holds NaN or infinity",
    ),
    "one value": (
        {"recipe": "gptq", "calibration": np.ones_like(ROWS), "example_inputs": ROWS},
        InputError,
        "all 12 rows of 'input' hold the single value 1.0",
    ),
    "another shape": (
        {"recipe": "gptq", "calibration": ROWS[:, :8], "example_inputs": ROWS},
        InputError,
        r"as the model takes them, input: float32\[B, 16\]; got input: float32\[B, 8\]",
    ),
    "no calibration rows": (
        {"recipe": "gptq", "calibration": 7, "example_inputs": ROWS},
        ConfigError,
        "calibration: expected an array, .*got int",
    ),
    "max_drop without evaluate": (
        {"max_drop": 0.01},
        ConfigError,
        "max_drop=0.01: expected a share such as 0.005, and evaluate= to measure it with",
    ),
    "a bound of more than all": (
        {"max_drop": 1.5, "evaluate": (ROWS, LABELS)},
        ConfigError,
        "max_drop=1.5: expected a share",
    ),
    "fewer labels": (
        {"evaluate": (ROWS, LABELS[:5])},
        InputError,
        "evaluate=: 12 rows of inputs and 5 labels; expected as many of both",
    ),
    "labels of another shape": (
        {"evaluate": (ROWS, np.zeros((12, 3), int))},
        InputError,
        r"evaluate=: labels \[12, 3\] do not fit outputs \[12, 8\]",
    ),
    "nothing to evaluate with": (
        {"evaluate": 7},
        ConfigError,
        r"evaluate=: expected \(inputs, labels\), an object that has them, or a function",
    ),
    "a serving that there is not": (
        {"decode": "later"},
        ConfigError,
        "decode: expected 'program' or 'open', got 'later'",
    ),
    "a codec that there is not": (
        {"entropy": "lzma"},
        ConfigError,
        "entropy: expected 'zstd', 'zlib' or 'none', got 'lzma'",
    ),
    "a batch of none": (
        {"latency_buckets": (0,)},
        ConfigError,
        r"latency_buckets: expected batch sizes ≥ 1, got \[0\]",
    ),
    "no calibration rows wanted": (
        {"recipe": "gptq", "calibration_rows": 0},
        ConfigError,
        "calibration_rows=0: expected at least 1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_any_weight_is_fitted(name: str) -> None:
    """The message says what is wrong and what to do, and no work was done for nothing."""
    given, kind, message = REFUSED[name]
    told: list[Any] = []
    options = {"calibration": ROWS, "weights": WEIGHTS, "min_size": 1, **given}
    with pytest.raises(kind, match=message):
        quantize(apply, progress=lambda *stage: told.append(stage), **options)
    assert told == []


@pytest.mark.parametrize("recipe", ["int8", "int4w", "kmeans4", "gptq", "hashed8", "first-order"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(recipe: str, bad: float) -> None:
    """Whatever the recipe."""
    kernel = WEIGHTS["head"]["kernel"].copy()
    kernel[3, 4] = bad
    with pytest.raises(InputError, match=r"weight 'head/kernel'.*"):
        quantize(apply, recipe, ROWS, weights={**WEIGHTS, "head": {"kernel": kernel}})


def test_quantized_twice() -> None:
    """Both a quantized model and one whose weights are codes are refused."""
    found = quantize(apply, "int8", ROWS, weights=WEIGHTS, min_size=1)
    with pytest.raises(ConfigError, match="quantized already, and quantizing it twice would add"):
        quantize(found, "int8", ROWS)
    codes = {"head": {"kernel": {"codes": np.zeros((4, 4), np.int8)}}}
    with pytest.raises(ConfigError, match=r"quantized already \(head/kernel/codes holds codes\)"):
        quantize(lambda w, x: x, "int8", ROWS, weights=codes)


def test_an_evaluation_that_gives_no_number() -> None:
    """A function's result must be a finite number."""
    for value, kind, message in (
        ("good", ConfigError, "evaluate= must return a number, .*returned 'good'"),
        (float("nan"), InputError, "evaluate= returned nan"),
    ):
        with pytest.raises(kind, match=message):
            quantize(apply, "int8", ROWS, lambda predict, v=value: v, weights=WEIGHTS, min_size=1)


def test_calibration_that_overflows_in_the_model_is_told_with_the_weight() -> None:
    """Rows may be finite and still make infinities on the way."""

    def overflowing(weights: Any, x: Any) -> Any:
        return jnp.exp(1000 * jnp.abs(x @ weights["hidden"]["kernel"])) @ weights["head"]["kernel"]

    with pytest.raises(InputError, match="the input of 'head/kernel' holds NaN or infinity"):
        quantize(overflowing, "int8-static", ROWS, weights=WEIGHTS, min_size=1)


def test_examples_with_labels_are_rows() -> None:
    """An object with inputs and labels serves as calibration and as evaluation."""
    rows = SimpleNamespace(inputs=ROWS, labels=LABELS)
    found = quantize(apply, "int8-static", rows, rows, weights=WEIGHTS, min_size=1)
    assert found.report.metric == "accuracy"
