from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from maas_sdk.compress.allocate import sensitivity
from maas_sdk.compress.program.formats import Format
from maas_sdk.compress.program.recipes import Recipe
from maas_sdk.compress.program.traced_model import TracedModel, find_sites
from maas_sdk.compress.quantize import quantize
from maas_sdk.compress.task_metric import judge_of
from maas_sdk.model.adapt import adapt

RNG = np.random.default_rng(0)
# Three layers, of which the middle one has large weights beside many small ones that matter: a
# coarse grid takes them for zero.
WEIGHTS = {
    "a": (RNG.normal(size=(16, 32)) / 4).astype(np.float32),
    "b": (RNG.normal(size=(32, 32)) / 6).astype(np.float32),
    "c": (RNG.normal(size=(32, 8)) / 6).astype(np.float32),
}
WEIGHTS["b"][0, :] = 3
ROWS = RNG.normal(size=(400, 16)).astype(np.float32)


def apply(weights: Any, x: Any) -> Any:
    hidden = jnp.tanh(x @ weights["a"]).at[:, 0].set(0)
    return jnp.tanh(hidden @ weights["b"]) @ weights["c"]


LABELS = np.asarray(apply(WEIGHTS, ROWS)).argmax(axis=1)
COARSE = Format(bits=4, granularity="channel")


def test_sensitivity_finds_the_weight_that_must_not_be_coarse() -> None:
    """One run per weight, each alone: the planted one costs most, in metric and in outputs."""
    program = TracedModel(model=adapt(apply, WEIGHTS))
    sites = find_sites(program, {"input": ROWS[:2]}, fold=True)
    told: list[Any] = []
    found = sensitivity(
        program,
        sites,
        Recipe(),
        judge_of((ROWS, LABELS)),
        COARSE,
        progress=lambda *stage: told.append(stage),
    )
    by_name = {one.name: one for one in found}
    assert max(by_name.values(), key=lambda one: one.drop).name == "b"
    assert max(by_name.values(), key=lambda one: one.output_error).name == "b"
    assert by_name["b"].drop > 0.3
    assert by_name["b"].drop_error > 0
    assert all(one.format == COARSE for one in found)
    assert told == [("sensitivity", done, 3) for done in (1, 2, 3)]


@pytest.mark.parametrize("bound", [0.05, 0.2])
def test_the_bound_holds_as_measured(bound: float) -> None:
    """Drop and standard error together are within it; the sensitive weight keeps more bits."""
    candidates = (Format(), Format(bits=4), Format(bits=2))
    found = quantize(
        apply,
        evaluate=(ROWS, LABELS),
        weights=WEIGHTS,
        max_drop=bound,
        candidates=candidates,
        min_size=1,
    )
    report = found.report
    assert report.drop is not None
    assert report.drop_error is not None
    assert report.drop + report.drop_error <= bound
    bits = {layer.name: layer.bits for layer in report.layers}
    assert bits["b"] > max(bits["a"], bits["c"]) or bits["b"] >= 8
    int8 = quantize(apply, "int8w", ROWS[:2], weights=WEIGHTS, min_size=1).report
    # What a tight bound allows for four hundred rows may be 8 bits; a loose one allows fewer.
    assert report.bytes_stored <= int8.bytes_stored - (bound > 0.1)


def test_a_looser_bound_takes_no_more_bytes() -> None:
    """More may be lost, so no more is stored."""
    sizes = [
        quantize(
            apply, evaluate=(ROWS, LABELS), weights=WEIGHTS, max_drop=bound, min_size=1
        ).report.bytes_stored
        for bound in (0.02, 0.3)
    ]
    assert sizes[1] < sizes[0]
