"""Default relative tolerance of a program, from the coarsest arithmetic in it.

The formula of the tolerance, and the comparison, are in ``bundle/files/tolerance.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

__all__ = ["default_rtol", "rtol_of_dtypes"]

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


def default_rtol(jaxpr: Any) -> float:
    """Return the relative tolerance that fits the arithmetic of a program.

    Args:
        jaxpr: a closed jaxpr.
    """
    return rtol_of_dtypes(_arithmetic(jaxpr.jaxpr))


def rtol_of_dtypes(dtypes: Iterable[str]) -> float:
    """Return the relative tolerance that fits the coarsest of some dtypes; 0 for none."""
    found = set(dtypes)
    for names, rtol in _RTOL:
        if any(dtype.startswith(name) for dtype in found for name in names):
            return rtol
    return _RTOL_DOUBLE if found & {"float64", "complex128"} else 0.0


def _arithmetic(jaxpr: Any) -> Iterator[str]:
    """Yield dtype names of inexact results, and of the integers that floats are rounded to."""
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
