"""Quantization of one weight by a recipe: codes, scales and the program's other numbers.

The rule it keeps: layers of a stack are fitted one by one, each to what its own inputs were; the
float weight is read, never kept.

Dimension letters: O output channels, I inputs, S layers of a stack.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from maas_sdk.bundle.encoding.spec import Stored, decode_blocks
from maas_sdk.bundle.files.weights import aligned_empty
from maas_sdk.compress.methods import grids, ranges
from maas_sdk.compress.methods.adaquant import adaquant
from maas_sdk.compress.methods.gptq import gptq
from maas_sdk.compress.methods.matrix_view import MatrixView
from maas_sdk.compress.methods.smoothing import awq, smoothquant
from maas_sdk.compress.program.formats import FORMATS, Format, encode, stack, store_codes
from maas_sdk.compress.program.observe import Observed
from maas_sdk.compress.program.quantized_model import QuantizedWeight
from maas_sdk.compress.program.quantized_weight import WeightPlan
from maas_sdk.compress.program.recipes import Recipe
from maas_sdk.compress.program.traced_model import Site
from maas_sdk.errors import InputError, MaasError
from maas_sdk.tensors import Array

__all__ = ["Fitted", "fit", "folded"]

# The dtype of a product of bfloat16 and float32 parts is float32.
_DTYPE: Final = "float32"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A weight after quantization."""

    weight: QuantizedWeight
    # Σ w² and Σ (w - ŵ)², over the weight as the program multiplies with it.
    signal: float
    noise: float


def fit(
    site: Site,
    value: Any,
    recipe: Recipe,
    form: Format,
    observed: Observed | None,
) -> Fitted:
    """Quantize one weight.

    Args:
        site: where it is used.
        value: the float weight, an array of any kind.
        recipe: how.
        form: into what.
        observed: what its products' inputs were, for recipes that calibrate.

    Raises:
        InputError: the weight, or what was observed, is not finite or has no range. Names it.
    """
    array = np.asarray(value)
    dtype = str(array.dtype)
    array = folded(site, array.astype(np.float32, copy=False))
    products = "lookup" not in site.kinds and "table" not in site.kinds
    method = recipe.method if products and observed is not None and form.kind == "integer" else ""
    if method in _SMOOTHING and site.kinds != ("dense",):
        # One divisor per input: of a convolution an input is a channel at a place of its window,
        # and one number can be divided by one number only.
        method = ""
    layout, order = site.layout, None
    if site.kinds == ("dense",) and (layout.stack is None or form.kind not in ("sparse", "hashed")):
        layout, order = layout.stored()
        if order == tuple(range(len(order))):
            order = None
    if order is not None:
        axes = order if layout.stack is None else (0, *(axis + 1 for axis in order))
        array = array.transpose(axes)
    roles: dict[str, Array] = {}
    try:
        if method in ("", "round") or (method in _NEED_VECTORS and not _seen(observed)):
            stored, layout, cuts = encode(site.name, array, layout, form)
            target = array
        else:
            assert observed is not None
            found = [
                _fit_layer(
                    site.name, layer, layout, recipe, form.fitted(layout), observed.layer(at)
                )
                for at, layer in _layers(layout, array)
            ]
            one = layout.stack is None
            stored = found[0][0] if one else stack([layer for layer, _ in found])
            cuts, target = True, array
            if found[0][1] is not None:
                smooth = np.stack([s for _, s in found if s is not None])
                roles["smooth"] = smooth[0] if one else smooth
    except MaasError as error:
        raise InputError(f"weight {site.name!r}: {error.message}", weight=site.name) from error
    stored = replace(stored, tensors={part: _aligned(a) for part, a in stored.tensors.items()})
    activations = recipe.activations if products else None
    if activations is not None and form.kind not in _MEETS.get(activations.dtype, FORMATS):
        activations = None
    if activations is not None and activations.ranges == "static":
        assert observed is not None
        roles["input_scale"] = _input_scales(site, recipe, observed, roles.get("smooth"))
    if site.fold is not None:
        roles["shift"] = site.fold.shift
    own = stored.encodings[site.name]
    scale = stored.tensors.get(own.parts.get("scale", ""))
    shape = None if scale is None else scale.shape[0 if layout.stack is None else 1 :]
    plan = WeightPlan(
        name=site.name,
        layout=layout if order is None else site.layout,
        dtype=dtype,
        encodings=stored.encodings,
        tensors=tuple(stored.tensors),
        activations=activations,
        roles=tuple(roles),
        operations=0 if site.fold is None else site.fold.operations,
        cuts=cuts,
        scale_shape=shape,
        order=order,
    )
    weight = QuantizedWeight(plan=plan, stored=stored, roles=roles)
    signal, noise = _error(target, weight, layout)
    return Fitted(weight=weight, signal=signal, noise=noise)


# Formats that inputs of a dtype can be multiplied with, code by code; signs meet any weight.
_MEETS: Final = {"int8": ("integer", "fixed"), "float8_e4m3fn": ("float8",)}
_ALIGNMENT: Final = 64
_SMOOTHING: Final = frozenset({"smoothquant", "awq"})
_NEED_VECTORS: Final = frozenset({"smoothquant", "gptq", "awq", "adaquant"})


def folded(site: Site, array: Array) -> Array:
    """Multiply into the weight's channels the factor that follows its product."""
    if site.fold is None:
        return array
    factor = np.ones([len(site.fold.factor), 1], np.float32) * site.fold.factor[:, None]
    return np.asarray(array * site.layout.from_matrix(factor))


def _seen(observed: Observed | None) -> bool:
    """Return True when the product's inputs could be observed as vectors."""
    return observed is not None and observed.gram is not None


def _layers(layout: MatrixView, array: Array) -> list[tuple[int | None, Array]]:
    return [(None, array)] if layout.stack is None else list(enumerate(array))


def _fit_layer(
    name: str, layer: Array, layout: MatrixView, recipe: Recipe, form: Format, observed: Observed
) -> tuple[Stored, Array | None]:
    """Fit one layer by a method that uses its inputs: storage, and the inputs' divisors."""
    matrix = layout.to_matrix(layer)
    smooth: Array | None = None
    if recipe.method == "smoothquant":
        smooth = smoothquant(observed.largest, matrix, alpha=recipe.alpha)
    elif recipe.method == "awq":
        assert observed.total is not None
        smooth = awq(
            matrix,
            observed.gram,
            bits=form.bits,
            granularity=form.granularity,
            magnitudes=observed.total / max(observed.vectors, 1),
            clip=form.clip,
        )
    if smooth is not None:
        found = grids.symmetric(
            matrix * smooth, bits=form.bits, granularity=form.granularity, clip=form.clip
        )
    elif recipe.method == "gptq":
        found = gptq(
            matrix, observed.gram, bits=form.bits, granularity=form.granularity, clip=form.clip
        )
    else:
        found = adaquant(matrix, observed.sample, bits=form.bits, granularity=form.granularity)
    return store_codes(name, found.codes, found.scale, layout, form.bits), smooth


def _input_scales(site: Site, recipe: Recipe, observed: Observed, smooth: Array | None) -> Array:
    """Return the static scale of the input: [], or [S] of a stack."""
    activations = recipe.activations
    assert activations is not None
    found = []
    for index, histogram in enumerate(observed.histograms):
        # A smoothed input has another range, which follows from its largest values.
        if smooth is not None:
            assert observed.largest is not None
            rows = smooth if site.layout.stack is None else smooth[index]
            largest = observed.largest if site.layout.stack is None else observed.largest[index]
            limit = float((largest / rows).max())
        else:
            limit = ranges.choose(histogram, recipe.ranges, bits=8, percentile=recipe.percentile)
        found.append(limit / activations.top)
    scales = np.array(found, np.float32)
    return scales if site.layout.stack is not None else scales.reshape(())


def _aligned(array: Array) -> Array:
    """Copy the array to 64-byte alignment, so that XLA:CPU takes it without its own copy."""
    if array.ctypes.data % _ALIGNMENT == 0 and array.flags.c_contiguous:
        return array
    found = aligned_empty(array.dtype, array.shape)
    found[...] = array
    return found


def _error(target: Array, weight: QuantizedWeight, layout: MatrixView) -> tuple[float, float]:
    """Return Σ w² and Σ (w - ŵ)², computed some rows at a time."""
    smooth = weight.roles.get("smooth")
    whole = weight.decoded()
    signal = noise = 0.0
    for cut, decoded in decode_blocks(whole.name, whole.encodings, whole.tensors):
        before = target[cut]
        if smooth is not None:
            divisors = smooth[cut] if layout.stack is not None else smooth[None]
            spread = [layout.from_matrix(row[None]) for row in divisors]
            decoded = decoded / (np.stack(spread) if layout.stack is not None else spread[0])
        # Dot products of rows: no copy in float64, and sums that do not lose what is small.
        for old, new in zip(
            before.reshape(len(before), -1), decoded.reshape(len(decoded), -1), strict=True
        ):
            gap = new - old
            signal += float(np.dot(old, old))
            noise += float(np.dot(gap, gap))
    return signal, noise
