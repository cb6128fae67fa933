"""Conversion of a file's values to the dtype and shape of an input, without loss.

Integers and booleans become floats, whole floats become integers, float64 becomes a shorter float.
A row with any other value is bad, with a reason that says what was expected and what was found.

Dimension letters: N rows, F numbers of a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from maas_sdk.errors import InputError
from maas_sdk.tables.columns import Field
from maas_sdk.tensors import BITS, Array, TensorSpec, dtype_from_name

__all__ = ["fit", "fit_each", "shown"]

# NumPy's letters: booleans, integers, unsigned, floats.
_REAL: Final = "biuf"
_SHOWN: Final = 40


def shown(value: object) -> str:
    """Format a value for a message: short, whatever it is."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    text = "null" if value is None else repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def fit(item: Field, values: Array, flaws: dict[int, str], *, finite: bool) -> Array:
    """Convert numbers to an input.

    Args:
        item: the input.
        values: [N, …] of booleans, integers or floats (complex for complex inputs), each row F
            numbers in whatever shape.
        flaws: place in the chunk → reason; rows that cannot be taken are added.
        finite: NaN and infinity are flaws.

    Returns:
        [N, …] as the spec says; anything in flawed rows.

    Raises:
        InputError: values of another kind, or of another F: the fault of no single row.
    """
    spec = item.spec
    wanted = dtype_from_name(spec.dtype)
    rows, size = len(values), item.size
    if values.dtype.kind not in (_REAL + "c" if wanted.kind == "c" else _REAL):
        raise InputError(f"{item.at()}: expected {spec}, found {values.dtype}", input=item.name)
    if math.prod(values.shape[1:]) != size:
        raise InputError(
            f"{item.at()}: expected {spec}, {size} numbers in a row, found "
            f"{values.dtype}{list(values.shape)}",
            input=item.name,
        )
    flat = values.reshape(rows, size)
    if spec.dtype == "bool":
        if values.dtype.kind != "b":
            _note(flaws, (flat != 0) & (flat != 1), flat, item, "0 or 1")
    elif spec.dtype.startswith(("int", "uint")):
        _whole(item, flat, flaws)
    if wanted == values.dtype:
        found = flat
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            found = flat.astype(wanted)
    if finite and wanted.kind in "fcV":
        as_float = found.astype(np.float32) if wanted.kind == "V" else found
        # A look at sums first: it takes no memory, and only NaN and infinity make it fail.
        with np.errstate(over="ignore", invalid="ignore"):
            doubtful = not np.isfinite(as_float.sum())
        if doubtful:
            _note(flaws, ~np.isfinite(as_float), flat, item, f"a finite {spec.dtype}")
    return found.reshape(rows, *(part or 0 for part in spec.shape[1:]))


def fit_each(item: Field, values: Sequence[Any], flaws: dict[int, str], *, finite: bool) -> Array:
    """Convert N Python objects, numbers or nested lists of them, each of which may be wrong.

    Returns:
        [N, …] as the spec says; zeros in flawed rows. Raises nothing that a row is to blame for.
    """
    spec = item.spec
    rows, dims = len(values), tuple(size or 0 for size in spec.shape[1:])
    try:
        together = np.asarray(values)
    except ValueError:  # lists of different lengths
        together = np.empty(0)
    # Integers beside floats would become floats, which have gaps.
    exact = together.dtype.kind != "f" or not spec.dtype.startswith(("int", "uint"))
    if (
        exact
        and together.dtype.kind in _REAL
        and together.shape[:1] == (rows,)
        and _fits(together.shape[1:], dims)
    ):
        return fit(item, together, flaws, finite=finite)
    found = np.zeros((rows, *dims), dtype_from_name(spec.dtype))
    for place, value in enumerate(values):
        if place in flaws:
            continue
        try:
            row = np.asarray(value)
        except ValueError:
            row = np.empty(0, object)
        if row.dtype.kind not in _REAL:
            flaws[place] = _no_numbers(item, value)
        elif not _fits(row.shape, dims):
            shape = f"shape {list(row.shape)}" if row.ndim else "a single number"
            flaws[place] = f"{item.at()}: expected {_row(spec)}, found {shape}"
        else:
            mine: dict[int, str] = {}
            found[place] = fit(item, row[None], mine, finite=finite)[0]
            if mine:
                flaws[place] = mine[0]
    return found


def _fits(shape: tuple[int, ...], dims: tuple[int, ...]) -> bool:
    """Return whether a row has the input's shape, or its numbers flat."""
    return shape == dims or shape == (math.prod(dims),) or (shape == () and math.prod(dims) == 1)


def _row(spec: TensorSpec) -> str:
    dims = list(spec.shape[1:])
    return f"{spec.dtype}{dims}" if dims else f"one {spec.dtype}"


def _no_numbers(item: Field, value: object) -> str:
    """The reason of a row that is not all numbers; of several columns, the first that is none."""
    if isinstance(value, list) and len(value) == len(item.columns) > 1:
        for element, number in enumerate(value):
            if not isinstance(number, int | float):
                return f"{item.at(element)}: expected a number, found {shown(number)}"
    return f"{item.at()}: expected {_row(item.spec)}, found {_odd(value)}"


def _odd(value: object) -> str:
    """Describe the first value that is no number, however deep in a list."""
    while isinstance(value, list):
        odd = [v for v in value if isinstance(v, list) or not isinstance(v, int | float)]
        if not odd or all(isinstance(v, list) for v in value):
            return "lists of different lengths" if odd else shown(value)
        value = odd[0]
    return shown(value)


def _whole(item: Field, flat: Array, flaws: dict[int, str]) -> None:
    """Note rows [N, F] with a value that an integer dtype does not hold."""
    dtype = item.spec.dtype
    bits = BITS[dtype]
    low, high = (0, 2**bits - 1) if dtype[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if flat.dtype.kind == "b":
        return
    if flat.dtype.kind == "f":
        # high + 1 is a power of two, which floats hold exactly; NaN is in no range.
        inside = (flat >= low) & (flat < high + 1) & (flat == np.floor(flat))
        _note(flaws, ~inside, flat, item, f"an integer, {dtype}")
        return
    info = np.iinfo(flat.dtype)
    if info.min < low or info.max > high:
        outside = np.zeros(flat.shape, bool)
        if info.min < low:
            outside |= flat < max(low, info.min)
        if info.max > high:
            outside |= flat > min(high, info.max)
        _note(flaws, outside, flat, item, f"{dtype}, {low} to {high}")


def _note(flaws: dict[int, str], wrong: Array, flat: Array, item: Field, expected: str) -> None:
    """Add the rows with a wrong value, [N, F], that have no flaw yet; the first value is named."""
    several = len(item.columns) == 1 and flat.shape[1] > 1
    for place in np.flatnonzero(wrong.any(axis=1)).tolist():
        element = int(np.argmax(wrong[place]))
        where = f", number {element} of {flat.shape[1]}" if several else ""
        flaws.setdefault(
            place, f"{item.at(element)}: expected {expected}, found {flat[place, element]}{where}"
        )
