"""Allowed distance between an answer and the model's own at export, and the comparison.

Float noise is relative to the scale of an output, not of each element: a sum that cancels to
nearly zero carries the noise of its large terms. So the rule is, for every output,

    |packaged - reference| ≤ atol + rtol · max |reference|,

with NaN and ±inf equal only to themselves, in the same places. Outputs of whole numbers and
booleans must be equal within ``atol`` alone. Export, golden answers and cold starts all hold
answers to this one rule; nothing on the way to a first answer needs it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maas_sdk.tensors import Array

__all__ = ["Difference", "Tolerance", "compare"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """Allowed: |packaged - reference| ≤ atol + rtol · max |reference|, per output."""

    atol: float
    rtol: float

    def allowed(self, reference: Array) -> float:
        """The largest error that an output may have."""
        if not _is_inexact(reference):
            return self.atol
        wide = _wide(reference)
        finite = wide[np.isfinite(wide)]
        return self.atol + self.rtol * float(np.abs(finite).max(initial=0.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The largest difference between two arrays of one shape."""

    # ``inf`` where one is NaN or infinite and the other is not the same.
    max_abs_error: float
    # Index of the element where it is; () when there are no elements.
    where: tuple[int, ...]


def compare(packaged: Array, reference: Array) -> Difference:
    """Return the largest difference; arrays must have the same shape."""
    left, right = _wide(packaged), _wide(reference)
    if left.size == 0:
        return Difference(max_abs_error=0.0, where=())
    same = (left == right) | ((left != left) & (right != right))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(left - right))
    error = np.where(np.isfinite(error), error, np.inf)
    at = int(error.argmax())
    where = tuple(int(i) for i in np.unravel_index(at, error.shape))
    return Difference(max_abs_error=float(error.reshape(-1)[at]), where=where)


def _is_inexact(array: Array) -> bool:
    return array.dtype.kind not in "biu" and "int" not in array.dtype.name


def _wide(array: Array) -> Array:
    """Convert to a dtype that holds every value of the array exactly (int64 beyond 2^53 aside)."""
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
