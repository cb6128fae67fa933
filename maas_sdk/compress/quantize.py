"""Quantization of a trained float model by a recipe.

The order is: trace the model, find its products with weights, choose layers, observe their inputs
where the recipe asks for it, then weight by weight: read, fold, encode, release. The rule it keeps:
the given model is never changed, and memory beside it holds only the stored result and one weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from maas_sdk.compress.allocate import CANDIDATES, allocate
from maas_sdk.compress.build_report import report_of
from maas_sdk.compress.latency import latency
from maas_sdk.compress.program.calibration import batches_of, example_of
from maas_sdk.compress.program.fit import Fitted, fit
from maas_sdk.compress.program.formats import Format
from maas_sdk.compress.program.observe import observe
from maas_sdk.compress.program.quantized_model import (
    Decode,
    Entropy,
    QuantizedModel,
    check_serving,
    hollow,
    needed,
)
from maas_sdk.compress.program.recipes import Recipe, find_recipe
from maas_sdk.compress.program.select import check_target, chosen, format_of
from maas_sdk.compress.program.traced_model import Site, TracedModel, find_sites
from maas_sdk.compress.task_metric import Evaluate, Judge, Score, inputs_of, judge_of, predictor
from maas_sdk.errors import ConfigError
from maas_sdk.model.adapt import Model, adapt
from maas_sdk.tensors import Array

__all__ = ["Progress", "quantize"]

# Stage, steps done, steps in all.
Progress = Callable[[str, int, int], None]

# Calibration batches are run again for every so many bytes of Gram matrices.
_GRAM_SHARE: Final = 0.1
_GRAM_BYTES: Final = 32 * 2**20


def quantize(
    model: Any,
    recipe: str | Recipe = "int8",
    calibration: Any = None,
    evaluate: Evaluate | None = None,
    *,
    example_inputs: Any = None,
    weights: Any = None,
    max_drop: float | None = None,
    candidates: Sequence[Format] = CANDIDATES,
    calibration_rows: int = 512,
    decode: Decode = "program",
    entropy: Entropy | None = None,
    target: str | None = None,
    latency_buckets: Iterable[int] = (),
    progress: Progress | None = None,
    **changes: Any,
) -> QuantizedModel:
    """Quantize a trained model, which is left as it was.

    Args:
        model: an ``nnx.Module``; a linen ``Module`` with ``weights``; a function
            ``apply(weights, inputs)`` with ``weights``.
        recipe: a name of ``recipes.RECIPES``, or a ``Recipe``.
        calibration: rows that show what goes into the layers: an array [N, …], a dict of arrays, or
            an iterable of batches. Recipes with static ranges, smoothquant, gptq, awq and adaquant
            need it.
        evaluate: (inputs, labels), or a function of a prediction to a number, more for better: what
            the report says was lost, and what ``max_drop`` bounds.
        example_inputs: one batch of inputs, where there is neither calibration nor evaluation.
        weights: linen variables, or the pytree of an ``apply`` function.
        max_drop: the most that may be lost in the metric, such as 0.005; formats are chosen weight
            by weight, the fewest bytes that keep it. Weights only: activations stay in float.
        candidates: the formats to choose from with ``max_drop``.
        calibration_rows: rows taken of ``calibration`` at most.
        decode: "program" or "open"; see ``quantized_model.py``.
        entropy: "zstd" or "zlib" on top of what is stored.
        target: what it shall run on, such as "cpu-x86_64-avx2" or "tpu-v5e": formats that cannot
            run there are refused.
        latency_buckets: batch sizes at which the compiled programs of both models are timed for the
            report, which exports both.
        progress: told (stage, done, total).
        **changes: fields of ``Recipe`` and ``Format``, such as ``include="layers/.*"``,
            ``skip_first=True``, ``bits=4`` or ``granularity=32``.

    Returns:
        The quantized model with its ``report``.

    Raises:
        ConfigError: options that do not fit together: no such recipe, a pattern that matches
            nothing, a recipe without the calibration it needs, a model that is quantized already, a
            format that the target cannot run.
        InputError: calibration rows, labels or weights that are not what is said above.
        ExportError: the model raised while it was traced.
        MachineError: zstd without its package; latencies asked for on a machine that can compile
            for no target.
    """
    tell = progress or (lambda stage, done, total: None)
    found = find_recipe(recipe, **changes)
    check_target(found, target)
    if max_drop is not None and (evaluate is None or not 0 <= max_drop < 1):
        raise ConfigError(
            f"max_drop={max_drop}: expected a share such as 0.005, and evaluate= to measure it with"
        )
    check_serving(decode, entropy)
    buckets = tuple(latency_buckets)
    if any(size < 1 for size in buckets):
        raise ConfigError(f"latency_buckets: expected batch sizes ≥ 1, got {list(buckets)}")
    if calibration_rows < 1:
        raise ConfigError(f"calibration_rows={calibration_rows}: expected at least 1")
    judge = None if evaluate is None else judge_of(evaluate)
    float_model = _adapted(model, weights)
    example, bare = _example(example_inputs, judge, calibration)
    batches = _calibration(found, calibration, calibration_rows, example)
    program = TracedModel(model=float_model, bare=bare)
    every = find_sites(program, example, fold=found.fold_norms)
    sites = chosen(found, every)
    # Labels that do not fit, or a function that fails, are met before work is done.
    before = None if judge is None else judge.score(predictor(float_model))
    drops: Mapping[str, float] = {}
    if max_drop is not None:
        assert judge is not None
        plan = allocate(program, sites, found, candidates, judge, max_drop=max_drop, progress=tell)
        found = replace(
            found,
            name=f"max-drop-{max_drop:g}",
            overrides=plan.formats,
            activations=None,
            method="round",
        )
        drops = plan.drops
    fitted = _fit_all(program, sites, found, batches, tell)
    return _finished(
        _Parts(
            program=program,
            example=example,
            recipe=found,
            fitted=fitted,
            sites=every,
            real=bool(batches) or judge is not None,
        ),
        judge=judge,
        before=before,
        drops=drops,
        decode=decode,
        entropy=entropy,
        buckets=buckets,
        tell=tell,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parts:
    program: TracedModel
    example: Mapping[str, Array]
    recipe: Recipe
    sites: Sequence[Site]
    fitted: Mapping[str, Fitted]
    # Whether the example is of rows that the model is meant for.
    real: bool


def _adapted(model: Any, weights: Any) -> Model:
    """Return the model as named leaves; refused where it is quantized already."""
    if hasattr(model, "as_model"):
        raise ConfigError(
            "the model is quantized already, and quantizing it twice would add up the errors: "
            "quantize the float model that it came from"
        )
    found = adapt(model, weights)
    codes = [leaf.name for leaf in found.leaves if leaf.name.endswith(("/qvalue", "/codes"))]
    if codes:
        raise ConfigError(
            f"the model is quantized already ({codes[0]} holds codes): quantize the float model "
            "that it came from"
        )
    return found


def _example(given: Any, judge: Judge | None, calibration: Any) -> tuple[dict[str, Array], bool]:
    """Return at most two input rows; and whether the model takes one array without a name."""
    for source in (given, None if judge is None else judge.inputs, calibration):
        if source is None or (source is calibration and hasattr(source, "__next__")):
            continue
        rows = inputs_of(source)
        if not (isinstance(rows, Mapping) or hasattr(rows, "shape")):
            first = next(iter(rows), None)
            rows = inputs_of(first[0] if isinstance(first, (tuple, list)) else first)
        if rows is not None:
            found = {name: array[:2] for name, array in example_of(rows).items()}
            return found, not isinstance(rows, Mapping)
    raise ConfigError(
        "example_inputs: none given, and neither calibration= nor evaluate= has rows to look at: "
        "pass example_inputs=rows[:2]"
    )


def _calibration(
    recipe: Recipe, calibration: Any, rows: int, example: Mapping[str, Array]
) -> list[dict[str, Array]]:
    if calibration is None:
        if recipe.calibrates:
            raise ConfigError(
                f"recipe {recipe.name} looks at what goes into the layers: pass calibration=rows, "
                "a few hundred that nobody is judged by"
            )
        return []
    return batches_of(calibration, rows=rows, like=example)


def _fit_all(
    program: TracedModel,
    sites: Sequence[Site],
    recipe: Recipe,
    batches: Sequence[Mapping[str, Array]],
    tell: Progress,
) -> dict[str, Fitted]:
    """Fit every chosen weight, a few at a time where their inputs have to be observed."""
    values = {leaf.name: leaf.value for leaf in program.model.leaves}
    total = sum(int(np.prod(leaf.value.shape)) * 4 for leaf in program.model.leaves)
    looks = recipe.calibrates and bool(batches)
    vectors = recipe.method != "round"
    budget = max(_GRAM_BYTES, int(_GRAM_SHARE * total)) if vectors else total + 1
    found: dict[str, Fitted] = {}
    for group in _groups(sites, budget) if looks else [list(sites)]:
        seen = {}
        if looks:
            seen = observe(
                program,
                group,
                batches,
                vectors=vectors,
                progress=lambda done: tell("calibrate", done, len(batches)),
            )
        for site in group:
            form = format_of(recipe, site)
            if form is not None:
                observed = seen.get(site.name)
                found[site.name] = fit(site, values[site.name], recipe, form, observed)
            tell("quantize", len(found), len(sites))
    return found


def _groups(sites: Sequence[Site], budget: int) -> list[list[Site]]:
    """Group weights whose Gram matrices fit a number of bytes together."""
    groups: list[list[Site]] = [[]]
    filled = 0
    for site in sites:
        size = 4 * site.layout.inputs**2 * (site.layout.stack or 1)
        if groups[-1] and filled + size > budget:
            groups.append([])
            filled = 0
        groups[-1].append(site)
        filled += size
    return groups


def _finished(
    parts: _Parts,
    *,
    judge: Judge | None,
    before: Score | None,
    drops: Mapping[str, float],
    decode: Decode,
    entropy: Entropy | None,
    buckets: Sequence[int],
    tell: Progress,
) -> QuantizedModel:
    """Measure the model and return it with its report."""
    program = parts.program
    weights = {name: fitted.weight for name, fitted in parts.fitted.items()}
    kept = {leaf.name: leaf for leaf in program.model.leaves if leaf.name not in weights}
    report = report_of(program.model, parts.recipe, parts.sites, parts.fitted, kept, drops)
    quantized = QuantizedModel(
        recipe=parts.recipe,
        source=hollow(program.model),
        kept=kept,
        weights=weights,
        report=report,
        bare=program.bare,
    )
    used = needed(quantized.as_model(), parts.example, bare=program.bare)
    kept = {name: leaf for name, leaf in kept.items() if name in used or leaf.random}
    quantized = replace(quantized, kept=kept)
    quantized = quantized.serving(decode=decode, entropy=entropy or "none")
    timed = (
        latency(
            program.model,
            quantized,
            parts.example,
            buckets,
            bare=program.bare,
            progress=lambda done, total: tell("latency", done, total),
        )
        if buckets
        else None
    )
    report = report_of(
        program.model,
        parts.recipe,
        parts.sites,
        parts.fitted,
        kept,
        drops,
        model=quantized,
        judged=None
        if judge is None or before is None
        else (judge.metric, before, judge.score(predictor(quantized.as_model()))),
        # Example inputs alone may be zeros: what is answered to them says nothing.
        outputs=_outputs(program, quantized, parts.example) if parts.real else None,
        timed=timed,
    )
    return replace(quantized, report=report)


def _outputs(program: TracedModel, after: QuantizedModel, example: Mapping[str, Array]) -> Any:
    """Return the answers of both models to the example rows."""
    given: Any = example["input"] if program.bare else dict(example)
    return predictor(program.model)(given), predictor(after.as_model())(given)
