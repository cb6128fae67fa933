"""Allocation of bits to weights: the fewest bytes that keep a bound on the metric's drop.

Measuring every weight in every format is a run of the model each. One run per weight is enough to
rank them: with w replaced by its coarsest form the outputs move by Δ², and rounding noise of
another power moves them in proportion (a first-order expansion of the outputs around w):

    cost(weight, format) = Δ²(coarsest) · noise(format) / noise(coarsest)

Going from all weights in their finest format to all in their coarsest, the step that costs least
per byte saved is taken first (marginal analysis: Shoham and Gersho 1988, Efficient bit allocation
for an arbitrary set of quantizers). Along that path the metric itself is measured, by bisection.

The rule it keeps: the promised drop has been measured with all chosen formats together; the drop
plus its standard error is within the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import jax
import numpy as np

from maas_sdk.compress.program.fit import Fitted, fit
from maas_sdk.compress.program.formats import Format
from maas_sdk.compress.program.recipes import Recipe
from maas_sdk.compress.program.traced_model import Site, TracedModel
from maas_sdk.compress.task_metric import Judge, Score, predictor
from maas_sdk.tensors import Array

__all__ = ["CANDIDATES", "Allocation", "Sensitivity", "Tell", "allocate", "sensitivity"]

# From fine to coarse. Codebooks follow the weights' distribution, so at equal bits they lose less
# than a grid; 8 bits of grid need no table.
CANDIDATES: Final = (
    Format(),
    *(Format(kind="kmeans", bits=bits, granularity="tensor") for bits in (6, 5, 4, 3, 2)),
)

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """Cost of quantizing one weight alone."""

    name: str
    format: Format
    # In the metric; negative where something is won. Its standard error, 0 where not known.
    drop: float
    drop_error: float
    # Mean of |Δ outputs|², relative to the mean of |outputs|².
    output_error: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """The chosen formats."""

    # By name of the weight; None stays in float.
    formats: Mapping[str, Format | None]
    # What each weight alone costs in its coarsest format, in the metric.
    drops: Mapping[str, float]
    # Measured with all of them together.
    drop: float
    drop_error: float


def sensitivity(
    program: TracedModel,
    sites: Sequence[Site],
    recipe: Recipe,
    judge: Judge,
    form: Format,
    *,
    progress: Tell | None = None,
) -> tuple[Sensitivity, ...]:
    """Measure the cost of each weight alone in a format: one run of the task per weight.

    Args:
        program: the float model's.
        sites: weights to look at.
        recipe: whose other settings hold, such as folding.
        judge: the task.
        form: the format.
        progress: told ("sensitivity", done, total).
    """
    bench = _Bench(program, judge)
    found = []
    for done, site in enumerate(sites, 1):
        drop, error, moved = bench.alone(site, bench.fit(site, recipe, form))
        found.append(
            Sensitivity(
                name=site.name, format=form, drop=drop, drop_error=error, output_error=moved
            )
        )
        if progress is not None:
            progress("sensitivity", done, len(sites))
    return tuple(found)


def allocate(
    program: TracedModel,
    sites: Sequence[Site],
    recipe: Recipe,
    candidates: Sequence[Format],
    judge: Judge,
    *,
    max_drop: float,
    progress: Tell,
) -> Allocation:
    """Choose a format for every weight.

    Args:
        program: the float model's.
        sites: weights to choose for.
        recipe: whose other settings hold.
        candidates: from fine to coarse; float is always one more.
        judge: the task.
        max_drop: the bound, in the metric.
        progress: told ("sensitivity" or "choose", done, total).
    """
    bench = _Bench(program, judge)
    coarsest = candidates[-1]
    moves: list[tuple[float, int, str, Format]] = []
    drops = {}
    for done, site in enumerate(sites, 1):
        options = _options(bench, site, recipe, candidates)
        last = options[-1]
        drops[site.name], _, moved = bench.alone(site, bench.fit(site, recipe, coarsest))
        moves += _moves(site, options, moved / max(last[2], 1e-30))
        progress("sensitivity", done, len(sites))
    # Cheapest first; of one weight always from fine to coarse, which its hull is sorted by.
    moves.sort(key=lambda move: move[0])
    chosen, drop, error = _bisect(bench, sites, recipe, moves, max_drop, progress)
    return Allocation(formats=chosen, drops=drops, drop=drop, drop_error=error)


def _options(
    bench: _Bench, site: Site, recipe: Recipe, candidates: Sequence[Format]
) -> list[tuple[Format, int, float]]:
    """Return format, bytes and relative noise of each candidate."""
    found = []
    for form in candidates:
        fitted = bench.fit(site, recipe, form)
        noise = fitted.noise / fitted.signal if fitted.signal else 0.0
        found.append((form, fitted.weight.nbytes, noise))
    return found


def _moves(
    site: Site, options: Sequence[tuple[Format, int, float]], per_noise: float
) -> list[tuple[float, int, str, Format]]:
    """Return steps down the convex hull of (bytes, cost): cost per byte, bytes, weight, to."""
    size = 4 * site.layout.channels * site.layout.inputs * (site.layout.stack or 1)
    here: tuple[int, float] = (size, 0.0)
    rest = [(form, nbytes, noise * per_noise) for form, nbytes, noise in options]
    found = []
    while ahead := [option for option in rest if option[1] < here[0]]:
        slopes = [(cost - here[1]) / (here[0] - nbytes) for _, nbytes, cost in ahead]
        form, nbytes, cost = ahead[int(np.argmin(slopes))]
        found.append((max(min(slopes), 0.0), here[0] - nbytes, site.name, form))
        here = (nbytes, cost)
    return found


def _bisect(
    bench: _Bench,
    sites: Sequence[Site],
    recipe: Recipe,
    moves: Sequence[tuple[float, int, str, Format]],
    max_drop: float,
    tell: Tell,
) -> tuple[dict[str, Format | None], float, float]:
    """Return the longest beginning of the path that keeps the bound, as measured."""
    by_name = {site.name: site for site in sites}
    low, high = 0, len(moves)
    best: tuple[dict[str, Format | None], float, float] = (dict.fromkeys(by_name), 0.0, 0.0)
    steps = max(1, len(moves).bit_length())
    step = 0
    while low < high:
        middle = (low + high + 1) // 2
        formats: dict[str, Format | None] = dict.fromkeys(by_name)
        formats.update({name: form for _, _, name, form in moves[:middle]})
        fitted = {
            name: bench.fit(by_name[name], recipe, form)
            for name, form in formats.items()
            if form is not None
        }
        drop, error = bench.together([(by_name[name], found) for name, found in fitted.items()])
        step += 1
        tell("choose", min(step, steps), steps)
        if drop + error <= max_drop:
            low, best = middle, (formats, drop, error)
        else:
            high = middle - 1
    tell("choose", steps, steps)
    return best


class _Bench:
    """The float model with some of its weights replaced, compiled once."""

    def __init__(self, program: TracedModel, judge: Judge) -> None:
        self._judge = judge
        self._model = program.model
        self._values = {leaf.name: leaf.value for leaf in program.model.leaves}
        run = program.model.bind(None)
        self._call = jax.jit(
            lambda values, inputs, bare: run(values, inputs, bare), static_argnums=2
        )
        # Codes of all candidates: those of ``CANDIDATES`` take 28 bits a weight, its float 32.
        self._fitted: dict[tuple[str, Format], Fitted] = {}
        self._before, self._outputs = self._score({})

    def fit(self, site: Site, recipe: Recipe, form: Format) -> Fitted:
        """Return a weight in a format, fitted from the weight alone, and once."""
        key = site.name, form
        if key not in self._fitted:
            plain = replace(recipe, activations=None, method="round")
            self._fitted[key] = fit(site, self._values[site.name], plain, form, None)
        return self._fitted[key]

    def alone(self, site: Site, fitted: Fitted) -> tuple[float, float, float]:
        """Return drop, its standard error, and the outputs' relative squared error."""
        score, outputs = self._score({site.name: _float_of(site, fitted, self._values[site.name])})
        drop, error = score.drop_from(self._before)
        gap = sum(
            float(np.sum((new - old) ** 2)) for new, old in zip(outputs, self._outputs, strict=True)
        )
        size = sum(float(np.sum(old**2)) for old in self._outputs)
        return drop, error, gap / max(size, 1e-30)

    def together(self, pairs: Sequence[tuple[Site, Fitted]]) -> tuple[float, float]:
        """Return drop and its standard error with several weights replaced."""
        replaced = {
            site.name: _float_of(site, fitted, self._values[site.name]) for site, fitted in pairs
        }
        return self._score(replaced)[0].drop_from(self._before)

    def _score(self, replaced: Mapping[str, Array]) -> tuple[Score, list[Array]]:
        leaves = tuple(
            replace(leaf, value=replaced.get(leaf.name, leaf.value)) for leaf in self._model.leaves
        )
        predict = predictor(replace(self._model, leaves=leaves), call=self._call)
        seen: list[Array] = []

        def noting(inputs: Any) -> Any:
            found = predict(inputs)
            seen.extend(np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(found))
            return found

        return self._judge.score(noting), seen


def _float_of(site: Site, fitted: Fitted, value: Any) -> Array:
    """Return a quantized weight in the float model's terms: with its fold removed."""
    decoded = fitted.weight.to_float()
    dtype = np.asarray(value).dtype
    if site.fold is None:
        return decoded.astype(dtype, copy=False)
    factor = site.layout.from_matrix(site.fold.factor[:, None])
    # Of a channel that is multiplied with zero nothing is seen.
    safe = np.where(factor == 0, 1, factor)
    return np.asarray(np.where(factor == 0, np.asarray(value), decoded / safe), dtype)
