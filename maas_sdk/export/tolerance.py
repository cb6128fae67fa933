"""How far a packaged answer may lie from the reference, and the comparison itself.

Float noise is relative to the scale of an output, not of each element: a sum that cancels to
nearly zero carries the noise of its large terms. So the rule is, for every output,

    |packaged - reference| ≤ atol + rtol · max |reference|,

with NaN and ±inf equal only to themselves, in the same places. Outputs of whole numbers and
booleans must be equal within ``atol`` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from maas_sdk.tensors import Array

__all__ = ["Difference", "Tolerance", "compare", "default_rtol", "rtol_of_dtypes"]

# By the coarsest arithmetic in a program, checked in this order. float32 sums reassociate between
# vector widths: some 1e-6 of the scale per deep layer. bfloat16 keeps 8 bits, float16 11.
# A float rounded to int8 may land one step aside when its float noise crosses a half.
_RTOL: Final[tuple[tuple[frozenset[str], float], ...]] = (
    (frozenset({"float8_", "float6_", "float4_", "int4", "int2", "int1"}), 1e-1),
    (frozenset({"int8", "bfloat16"}), 2e-2),
    (frozenset({"float16"}), 5e-3),
    (frozenset({"float32", "complex64"}), 5e-5),
)
_NARROW_INTS: Final = frozenset({"int8", "int4", "int2", "int1"})
_RTOL_DOUBLE: Final = 1e-10


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
    """Find the largest difference; arrays must have the same shape."""
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


def default_rtol(jaxpr: Any) -> float:
    """The relative tolerance that fits the arithmetic of a program.

    Args:
        jaxpr: a closed jaxpr.
    """
    return rtol_of_dtypes(_arithmetic(jaxpr.jaxpr))


def rtol_of_dtypes(dtypes: Iterable[str]) -> float:
    """The relative tolerance that fits the coarsest of some dtypes; 0 for none."""
    found = set(dtypes)
    for names, rtol in _RTOL:
        if any(dtype.startswith(name) for dtype in found for name in names):
            return rtol
    return _RTOL_DOUBLE if found & {"float64", "complex128"} else 0.0


def _arithmetic(jaxpr: Any) -> Iterator[str]:
    """Dtype names of the inexact results, and of the integers that floats are rounded to."""
    for eqn in jaxpr.eqns:
        rounds = eqn.primitive.name == "convert_element_type" and any(
            "float" in _dtype(v) for v in eqn.invars
        )
        for variable in eqn.outvars:
            name = _dtype(variable)
            if "float" in name or "complex" in name or (rounds and name in _NARROW_INTS):
                yield name
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _arithmetic(inner)


def _dtype(variable: Any) -> str:
    return str(getattr(variable.aval, "dtype", ""))


def _is_inexact(array: Array) -> bool:
    return array.dtype.kind not in "biu" and "int" not in array.dtype.name


def _wide(array: Array) -> Array:
    """In an arithmetic that holds every value of the array exactly (int64 beyond 2^53 aside)."""
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
