"""Observation of the inputs of a model's products on calibration rows.

The rule it keeps: the float program is run, once per batch, and nothing is kept but sums, extremes
and histograms of each product's input, and a few of its vectors; so calibration may be as long as
one likes. Products inside a scan are seen too: of a stack of layers each one for itself, of a loop
over time all steps together.

Dimension letters: N vectors seen, I inputs of a product, S layers of a stack.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from maas_sdk.compress.methods.matrix_view import MatrixView
from maas_sdk.compress.methods.ranges import BINS, Histogram
from maas_sdk.compress.program.alignment import for_input, over_inputs, row_axes
from maas_sdk.compress.program.traced_model import Site, TracedModel, is_weight
from maas_sdk.compress.program.traced_weight import Known, Weight
from maas_sdk.compress.program.weight_uses import Products, Use
from maas_sdk.errors import InputError
from maas_sdk.tensors import Array

__all__ = ["Observed", "observe"]

# Vectors of a batch that are kept as they are, and of all batches together.
_SAMPLE_PER_BATCH: Final = 128
_SAMPLE: Final = 1024
# Images of a batch whose patches are looked at: a patch takes as many numbers as a kernel has.
_PATCH_IMAGES: Final = 8


@dataclass(kw_only=True)
class Observed:
    """Observed inputs of one product; of a stack, with S in front of every array."""

    # Histograms of |x|; one, or one for each layer of a stack.
    histograms: list[Histogram] = field(default_factory=list)
    # max|x| per input, float32 [I].
    largest: Array | None = None
    # Σ|x| per input and Σ xᵀx, float64 [I] and float32 [I, I]; N.
    total: Array | None = None
    gram: Array | None = None
    vectors: int = 0
    # Some of the vectors, float32 [n, I].
    sample: Array | None = None

    def layer(self, index: int | None) -> Observed:
        """Return one layer's part of a stack; ``None`` for what is no stack."""
        if index is None:
            return self
        cut = {
            name: None if (value := getattr(self, name)) is None else value[index]
            for name in ("largest", "total", "gram", "sample")
        }
        return Observed(histograms=[self.histograms[index]], vectors=self.vectors, **cut)

    def add(self, found: Mapping[str, Array], name: str, stack: int | None) -> None:
        """Add one batch's observations."""
        low, high = found["low"], found["high"]
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise InputError(
                f"calibration: the input of {name!r} holds NaN or infinity, which has no range. "
                "Look at the calibration rows, and at what the float model makes of them",
                weight=name,
            )
        layers = 1 if stack is None else stack
        parts = [found[key].reshape(layers, -1) for key in ("low", "high")]
        counts = found["counts"].reshape(layers, -1, BINS).astype(np.int64)
        rows = int(found["rows"].max())
        for index in range(layers):
            seen = self.histograms[index : index + 1]
            for low, high, count in zip(
                parts[0][index], parts[1][index], counts[index], strict=True
            ):
                seen.append(Histogram(counts=count, low=float(low), high=float(high), rows=rows))
            # Uses and steps of a loop see the same rows, batches see others.
            merged = functools.reduce(Histogram.merge, seen)
            self.histograms[index : index + 1] = [merged]
        self.vectors += int(found["vectors"].reshape(layers, -1)[0].sum())
        if "largest" in found:
            old = self.largest
            self.largest = found["largest"] if old is None else np.maximum(old, found["largest"])
        if "total" in found:
            self.total = found["total"] + (0 if self.total is None else self.total)
        if "gram" in found:
            self.gram = found["gram"] + (0 if self.gram is None else self.gram)
        if "sample" in found:
            axis = 0 if stack is None else 1
            kept = [found["sample"]] if self.sample is None else [self.sample, found["sample"]]
            joined = np.concatenate(kept, axis=axis)
            self.sample = joined[:_SAMPLE] if stack is None else joined[:, :_SAMPLE]


def observe(
    program: TracedModel,
    sites: Sequence[Site],
    batches: Iterable[Mapping[str, Array]],
    *,
    vectors: bool,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Observed]:
    """Run the float model on calibration rows and note the inputs of its products.

    Args:
        program: the model's.
        sites: whose inputs are noted.
        batches: inputs by name, each a batch; sizes may differ, which compiles once more.
        vectors: note Gram matrices, largest values per input and samples too. Without, only
            histograms.
        progress: told how many batches are done.

    Returns:
        What was seen, by the weight's name. Lookups have nothing to see and are not in it.

    Raises:
        InputError: NaN or infinity on the way to a product. Names the weight.
    """
    layouts = {site.name: site.layout for site in sites}
    found: dict[str, Observed] = {}

    @jax.jit
    def run(leaves: Sequence[Any], inputs: Mapping[str, Any]) -> Any:
        eye = _Eye(layouts, vectors=vectors)
        values = [
            Weight.of(leaf.name, value, value.shape, value.dtype)
            if is_weight(leaf)
            else Known(value)
            for leaf, value in zip(program.model.leaves, leaves, strict=True)
        ]
        program.run(values, inputs, eye)
        return eye.seen

    leaves = [leaf.value for leaf in program.model.leaves]
    for done, batch in enumerate(batches, 1):
        seen = jax.device_get(run(leaves, dict(batch)))
        for name, values in seen.items():
            known = found.setdefault(name, Observed())
            known.add(values, name, layouts[name].stack)
        if progress is not None:
            progress(done)
    return found


class _Eye(Products):
    """Computes every product unchanged, and notes its input."""

    def __init__(self, layouts: Mapping[str, MatrixView], *, vectors: bool) -> None:
        self.seen: dict[str, dict[str, Any]] = {}
        self._layouts = layouts
        self._vectors = vectors

    def array(self, weight: Weight) -> Any:
        return weight.parts

    def product(self, use: Use, other: Any) -> Any:
        weight = use.weight
        layout = self._layouts.get(weight.name)
        # A use the other way round, such as of tied embeddings, is computed in float.
        if layout is not None and use.kind != "lookup" and use.out_axes == layout.out_axes:
            self._note(weight.name, self._look(use, other), 0)
        array = weight.laid_out(weight.parts).astype(weight.dtype)
        return use.bind(array, other) if use.first else use.bind(other, array)

    def scope(self) -> Any:
        outer, self.seen = self.seen, {}
        return outer

    def leave(self, scope: Any) -> Any:
        inner, self.seen = self.seen, scope
        return inner

    def gathered(self, values: Any, *, looped: bool) -> None:
        for name, seen in values.items():
            # A stack's layers stay apart; a weight that all steps share has seen them all.
            apart = not looped and self._layouts[name].stack is not None
            if not apart:
                seen = {key: _over_steps(key, value) for key, value in seen.items()}
            self._note(name, seen, 1 if apart else 0)

    def _note(self, name: str, seen: Mapping[str, Any], axis: int) -> None:
        """Add an observation of a product; ``axis`` 1 where layers of a stack lie in front."""
        old = self.seen.get(name)
        if old is not None:
            seen = {key: _together(key, old[key], value, axis) for key, value in seen.items()}
        self.seen[name] = dict(seen)

    def _look(self, use: Use, other: Any) -> dict[str, Any]:
        values = other.astype(jnp.float32)
        low, high = jnp.min(values), jnp.max(values)
        limit = jnp.maximum(jnp.maximum(-low, high), 2.0**-100)
        # The span that ``ranges`` has: the least power of two above the limit.
        _, exponent = jnp.frexp(limit)
        index = jnp.abs(values) * (BINS / jnp.ldexp(jnp.float32(1), exponent))
        index = jnp.clip(index.astype(jnp.int32), 0, BINS - 1)
        seen = {
            "low": low[None],
            "high": high[None],
            "counts": jnp.bincount(index.reshape(-1), length=BINS)[None],
            "rows": jnp.full(1, other.shape[0], jnp.int32),
        }
        layout = self._layouts[use.weight.name]
        matrix = _vectors(use, values, layout) if self._vectors else None
        seen["vectors"] = jnp.full(1, 0 if matrix is None else matrix.shape[0], jnp.int32)
        if matrix is not None:
            step = max(1, matrix.shape[0] // _SAMPLE_PER_BATCH)
            seen["largest"] = jnp.max(jnp.abs(matrix), axis=0)
            seen["total"] = jnp.sum(jnp.abs(matrix), axis=0)
            seen["gram"] = matrix.T @ matrix
            seen["sample"] = matrix[::step][:_SAMPLE_PER_BATCH]
        return seen


# Histograms of different widths cannot be added here: each stays, for ``Observed.add``.
_APART: Final = frozenset({"low", "high", "counts", "rows", "vectors"})


def _together(key: str, old: Any, new: Any, axis: int) -> Any:
    """Merge the observations of two uses of a weight."""
    if key in _APART:
        return jnp.concatenate([old, new], axis=axis)
    if key == "sample":
        return old
    return jnp.maximum(old, new) if key == "largest" else old + new


def _over_steps(key: str, values: Any) -> Any:
    """Merge the observations of a loop's steps, in front of ``values``."""
    if key in _APART:
        return values.reshape(-1, *values.shape[2:])
    if key == "sample":
        return values[-1]
    return values.max(axis=0) if key == "largest" else values.sum(axis=0)


def _vectors(use: Use, values: Any, layout: MatrixView) -> Any:
    """Return the input as vectors multiplied with the weight's matrix: [N, I], or None.

    Inputs are in the order of ``Layout.to_matrix``.
    """
    if use.kind == "dense":
        if use.params["dimension_numbers"][1][0]:
            return None
        summed = row_axes(use, values)
        rest = [dim for dim in range(values.ndim) if dim not in summed]
        matrix = jnp.transpose(values, [*rest, *sorted(summed)]).reshape(-1, layout.inputs)
        # Which input of the weight each column is: it may have been transposed on its way.
        with jax.ensure_compile_time_eval():
            numbers = over_inputs(layout, jnp.arange(layout.inputs))
            columns = np.asarray(for_input(use, values, numbers)).reshape(-1)
        straight = (columns == np.arange(layout.inputs)).all()
        return matrix if straight else matrix[:, np.argsort(columns)]
    params = use.params
    numbers = params["dimension_numbers"]
    if params["feature_group_count"] != 1 or use.weight.steps:
        return None
    patches = jax.lax.conv_general_dilated_patches(
        jax.lax.slice_in_dim(
            values,
            0,
            min(_PATCH_IMAGES, values.shape[numbers.lhs_spec[0]]),
            axis=numbers.lhs_spec[0],
        ),
        filter_shape=[layout.shape[dim] for dim in numbers.rhs_spec[2:]],
        window_strides=params["window_strides"],
        padding=params["padding"],
        lhs_dilation=params["lhs_dilation"],
        rhs_dilation=params["rhs_dilation"],
        dimension_numbers=numbers,
    )
    # A patch lies with its channel first, then its places: [N, C, height, width].
    patches = jnp.moveaxis(patches, numbers.out_spec[1], -1)
    sizes = [layout.shape[dim] for dim in numbers.rhs_spec[1:]]
    flat = patches.reshape(-1, *sizes)
    axes = list(numbers.rhs_spec[1:])
    order = [1 + axes.index(axis) for axis in layout.in_axes]
    return jnp.transpose(flat, [0, *order]).reshape(-1, layout.inputs)
