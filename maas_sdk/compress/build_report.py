"""The report of a quantization, made from the parts that were fitted and measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import jax
import numpy as np

from maas_sdk.compress.latency import Timed
from maas_sdk.compress.program.fit import Fitted
from maas_sdk.compress.program.quantized_model import QuantizedModel
from maas_sdk.compress.program.recipes import Recipe
from maas_sdk.compress.program.report import LayerReport, QuantizationReport
from maas_sdk.compress.program.select import format_of
from maas_sdk.compress.program.traced_model import Site
from maas_sdk.compress.task_metric import Score
from maas_sdk.model.adapt import Model
from maas_sdk.model.leaf import Leaf
from maas_sdk.tensors import dtype_name, packed_nbytes

__all__ = ["report_of"]

_METHODS: Final = ("smoothquant", "gptq", "awq", "adaquant")


def report_of(
    before: Model,
    recipe: Recipe,
    sites: Sequence[Site],
    fitted: Mapping[str, Fitted],
    kept: Mapping[str, Leaf],
    drops: Mapping[str, float],
    *,
    model: QuantizedModel | None = None,
    judged: tuple[str, Score, Score] | None = None,
    outputs: tuple[Any, Any] | None = None,
    timed: Timed | None = None,
) -> QuantizationReport:
    """Build the report of a quantization.

    Args:
        before: the float model.
        recipe: what was asked for.
        sites: the weights that were chosen, in the order of the program.
        fitted: those that were quantized.
        kept: leaves that stayed.
        drops: what single weights cost, where that was measured.
        model: the quantized model, for its bytes as it is served.
        judged: the metric's name, and both scores.
        outputs: both models' answers to the example rows.
        timed: both models' latency.
    """
    layers = tuple(_layer(site, recipe, fitted, before, drops) for site in sites)
    rest = sum(_nbytes(leaf) for leaf in kept.values() if not leaf.random)
    packed = sum(found.weight.nbytes for found in fitted.values()) + rest
    stored, memory = (packed, packed) if model is None else _served(model)
    drop_error = None
    if judged is not None and judged[2].rows is not None:
        drop_error = judged[2].drop_from(judged[1])[1]
    return QuantizationReport(
        recipe=recipe.name,
        layers=layers,
        bytes_before=sum(_nbytes(leaf) for leaf in before.leaves if not leaf.random),
        bytes_stored=stored,
        bytes_memory=memory,
        metric=None if judged is None else judged[0],
        before=None if judged is None else judged[1].value,
        after=None if judged is None else judged[2].value,
        drop_error=drop_error,
        output_error=None if outputs is None else _difference(*outputs),
        latency_s={} if timed is None else timed.latency_s,
        target=None if timed is None else timed.target,
        notes=tuple(_notes(recipe, sites, fitted, model, timed)),
    )


def _layer(
    site: Site,
    recipe: Recipe,
    fitted: Mapping[str, Fitted],
    before: Model,
    drops: Mapping[str, float],
) -> LayerReport:
    count = site.layout.channels * site.layout.inputs * (site.layout.stack or 1)
    leaf = next(leaf for leaf in before.leaves if leaf.name == site.name)
    found = fitted.get(site.name)
    form = format_of(recipe, site)
    nbytes = _nbytes(leaf) if found is None else found.weight.nbytes
    noise = None
    if found is not None and found.signal > 0 and found.noise > 0:
        noise = found.noise / found.signal
    return LayerReport(
        name=site.name,
        shape=tuple(int(size) for size in leaf.value.shape),
        format=str(leaf.value.dtype) if found is None else str(form),
        bits=8 * nbytes / count,
        bytes_before=_nbytes(leaf),
        bytes_stored=nbytes,
        sqnr_db=None if noise is None else -10 * math.log10(noise),
        relative_error=None if noise is None else math.sqrt(noise),
        drop=drops.get(site.name),
    )


def _nbytes(leaf: Leaf) -> int:
    return packed_nbytes(dtype_name(leaf.value.dtype), leaf.value.shape)


def _served(model: QuantizedModel) -> tuple[int, int]:
    """Return the bytes of all tensors as stored, and as the serving process holds them."""
    leaves = [leaf for leaf in model.as_model().leaves if not leaf.random]
    stored = sum(_nbytes(leaf) if leaf.stored is None else leaf.stored.nbytes for leaf in leaves)
    return stored, sum(_nbytes(leaf) for leaf in leaves)


def _difference(before: Any, after: Any) -> float:
    old, new = (np.asarray(jax.tree.leaves(found)[0], np.float64) for found in (before, after))
    size = float(np.linalg.norm(old))
    return float(np.linalg.norm(new - old)) / size if size else float(np.linalg.norm(new))


def _stays_float(site: Site, found: Fitted | None) -> bool:
    """Return True for a quantized weight whose other operand stays float."""
    if found is None or not {"dense", "conv"} & {*site.kinds}:
        return False
    plan = found.weight.plan
    if plan.activations is None:
        return True
    return not (plan.activations.dtype.startswith("levels") or plan.per_channel())


def _named(names: Sequence[str]) -> str:
    """List some names, and how many more."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _notes(
    recipe: Recipe,
    sites: Sequence[Site],
    fitted: Mapping[str, Fitted],
    model: QuantizedModel | None,
    timed: Timed | None,
) -> list[str]:
    notes = []
    folded = [site.name for site in sites if site.fold is not None and site.name in fitted]
    if folded:
        notes.append(f"{len(folded)} norms are folded into the products before them")
    if recipe.method in _METHODS:
        plain = [
            name
            for name, found in fitted.items()
            if recipe.method in ("smoothquant", "awq") and "smooth" not in found.weight.roles
        ]
        if plain:
            notes.append(
                f"{recipe.method} does not reach {_named(plain)}: rounded to the nearest instead"
            )
    if recipe.activations is not None:
        floats = [site.name for site in sites if _stays_float(site, fitted.get(site.name))]
        if floats:
            notes.append(
                f"activations stay in float at {_named(floats)}: {recipe.activations.dtype} is "
                "multiplied with codes of its own kind that have one scale per output channel"
            )
    if model is not None and model.decode == "open" and recipe.activations is not None:
        notes.append(
            "weights are decoded while the bundle opens, so activations stay in float: small on "
            "the network, as fast as the float model"
        )
    if timed is not None:
        slower = [size for size, pair in timed.latency_s.items() if pair.after > 1.05 * pair.before]
        if slower:
            notes.append(
                f"on {timed.target} the quantized program is slower than the float one at batch "
                f"{', '.join(map(str, slower))}. There it is good for its size: less to download, "
                "to map and to keep in memory. decode='open' serves the same bundle at the float "
                "model's speed"
                + (
                    ", int8w keeps the size at about that speed"
                    if recipe.activations is not None
                    else ""
                )
            )
    return notes
