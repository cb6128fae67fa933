"""Test of row independence, computed on the reference model.

A batch is padded up to a bucket and split above the largest, so a row must get the same answer
whatever stands in the other rows. Models break this more often than one thinks: batch norm in
training mode, a softmax over the wrong axis, activations quantized with one scale per tensor.

The experiment: with one row kept in its place, the others become zeros, large values and NaN; the
rows change places; a row is answered alone. Where only *other* rows change, the kept row runs
through the same instructions, so its answer may differ by an ulp or two; where its place or the
batch size changes, by the float noise of the program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from maas_sdk.bundle.files.tolerance import Tolerance, compare
from maas_sdk.tensors import Array

__all__ = ["Run", "row_dependence"]

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]

# Two ulp of float32, relative to the output's scale; bfloat16 and its kin round to the same value.
_SAME_PLACE = Tolerance(atol=0.0, rtol=2.0**-22)


def row_dependence(run: Run, inputs: Mapping[str, Array], tolerance: Tolerance) -> str | None:
    """Describe how rows influence one another; None when they do not.

    Args:
        run: the reference model: inputs by name, each [B, …], to outputs, each [B, …].
        inputs: B ≥ 2 rows.
        tolerance: the float noise of the program.
    """
    rows = len(next(iter(inputs.values())))
    kept = rows // 2
    base = run(inputs)
    for what, others in (("zeros", _zeros), ("large values", _large), ("NaN", _nan)):
        changed = {name: others(array) for name, array in inputs.items()}
        for name, array in inputs.items():
            changed[name][kept] = array[kept]
        answers = run(changed)
        for name, answer in base.items():
            found = _differs(answers[name][kept], answer[kept], _SAME_PLACE)
            if found:
                return f"with {what} in the other rows, output {name!r} of a row changes {found}"
    order = np.roll(np.arange(rows), 1)
    answers = run({name: array[order] for name, array in inputs.items()})
    for name, answer in base.items():
        found = _differs(answers[name], answer[order], tolerance)
        if found:
            return f"when the rows change places, output {name!r} of a row changes {found}"
    answers = run({name: array[kept : kept + 1] for name, array in inputs.items()})
    for name, answer in base.items():
        found = _differs(answers[name], answer[kept : kept + 1], tolerance)
        if found:
            return f"alone in its batch, output {name!r} of a row changes {found}"
    return None


def _differs(found: Array, expected: Array, tolerance: Tolerance) -> str | None:
    error = compare(found, expected).max_abs_error
    return f"by {error:.2g}" if error > tolerance.allowed(expected) else None


def _zeros(array: Array) -> Array:
    return np.zeros_like(array)


def _large(array: Array) -> Array:
    """Return values far outside the examples' range; other valid ones for whole numbers."""
    if array.dtype.kind == "b":
        return ~array
    if _is_whole(array):
        return np.roll(array, 1, axis=0).copy()
    return np.full_like(array, 1000)


def _nan(array: Array) -> Array:
    if array.dtype.kind == "b" or _is_whole(array):
        return np.zeros_like(array)
    return np.full_like(array, np.nan)


def _is_whole(array: Array) -> bool:
    return array.dtype.kind in "iu" or "int" in array.dtype.name
