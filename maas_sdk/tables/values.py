"""Values as they stand in a file, bent to what an input of the program is.

The rule it keeps: a value is changed only where nothing of it is lost: integers and booleans become
floats, whole floats become integers, float64 becomes a shorter float. A row with any other value
is flawed, with a reason that says what was expected and what stands there; its neighbours are not.

Dimension letters: N rows, F numbers of a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from maas_sdk.errors import InputError
from maas_sdk.tensors import BITS, Array, TensorSpec, dtype_from_name

__all__ = ["fit", "fit_each", "row_size", "shown"]

# NumPy's letters: booleans, integers, unsigned, floats.
_REAL: Final = "biuf"
_SHOWN: Final = 40


def row_size(spec: TensorSpec) -> int:
    """F, the numbers in one row of an input."""
    return math.prod(size or 0 for size in spec.shape[1:])


def shown(value: object) -> str:
    """A value in a message: short, whatever it is."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    text = "null" if value is None else repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def fit(
    name: str, values: Array, spec: TensorSpec, flaws: dict[int, str], *, finite: bool
) -> Array:
    """Numbers as an input of the program.

    Args:
        name: of the input, for reasons.
        values: [N, …] of booleans, integers or floats (complex for complex inputs), each row F
            numbers in whatever shape.
        spec: of the input.
        flaws: place in the chunk → reason; rows that cannot be taken are added.
        finite: NaN and infinity are flaws.

    Returns:
        [N, …] as the spec says; anything in flawed rows.

    Raises:
        InputError: values of another kind, or of another F: the fault of no single row.
    """
    wanted = dtype_from_name(spec.dtype)
    rows, size = len(values), row_size(spec)
    if values.dtype.kind not in (_REAL + "c" if wanted.kind == "c" else _REAL):
        raise InputError(f"input {name!r}: expected {spec}, found {values.dtype}", input=name)
    if math.prod(values.shape[1:]) != size:
        raise InputError(
            f"input {name!r}: expected {spec}, {size} numbers in a row, found "
            f"{values.dtype}{list(values.shape)}",
            input=name,
        )
    flat = values.reshape(rows, size)
    if spec.dtype == "bool":
        if values.dtype.kind != "b":
            _note(flaws, (flat != 0) & (flat != 1), flat, name, "0 or 1")
    elif spec.dtype.startswith(("int", "uint")):
        _whole(name, flat, spec.dtype, flaws)
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
            _note(flaws, ~np.isfinite(as_float), flat, name, f"a finite {spec.dtype}")
    return found.reshape(rows, *(part or 0 for part in spec.shape[1:]))


def fit_each(
    name: str, values: Sequence[Any], spec: TensorSpec, flaws: dict[int, str], *, finite: bool
) -> Array:
    """The same for N Python objects, numbers or nested lists of them, each of which may be wrong.

    Returns:
        [N, …] as the spec says; zeros in flawed rows. Raises nothing that a row is to blame for.
    """
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
        return fit(name, together, spec, flaws, finite=finite)
    found = np.zeros((rows, *dims), dtype_from_name(spec.dtype))
    for place, value in enumerate(values):
        if place in flaws:
            continue
        try:
            row = np.asarray(value)
        except ValueError:
            row = np.empty(0, object)
        if row.dtype.kind not in _REAL:
            flaws[place] = f"input {name!r}: expected {_row(spec)}, found {_odd(value)}"
        elif not _fits(row.shape, dims):
            shape = f"shape {list(row.shape)}" if row.ndim else "a single number"
            flaws[place] = f"input {name!r}: expected {_row(spec)}, found {shape}"
        else:
            mine: dict[int, str] = {}
            found[place] = fit(name, row[None], spec, mine, finite=finite)[0]
            if mine:
                flaws[place] = mine[0]
    return found


def _fits(shape: tuple[int, ...], dims: tuple[int, ...]) -> bool:
    """Whether a row is of the input's shape, or has its numbers flat."""
    return shape == dims or shape == (math.prod(dims),) or (shape == () and math.prod(dims) == 1)


def _row(spec: TensorSpec) -> str:
    dims = list(spec.shape[1:])
    return f"{spec.dtype}{dims}" if dims else f"one {spec.dtype}"


def _odd(value: object) -> str:
    """What is wrong about a value that is no number: the innermost culprit of a list."""
    while isinstance(value, list):
        odd = [v for v in value if isinstance(v, list) or not isinstance(v, int | float)]
        if not odd or all(isinstance(v, list) for v in value):
            return "lists of different lengths" if odd else shown(value)
        value = odd[0]
    return shown(value)


def _whole(name: str, flat: Array, dtype: str, flaws: dict[int, str]) -> None:
    """Note rows [N, F] with a value that an integer dtype does not hold."""
    bits = BITS[dtype]
    low, high = (0, 2**bits - 1) if dtype[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if flat.dtype.kind == "b":
        return
    if flat.dtype.kind == "f":
        # high + 1 is a power of two, which floats hold exactly; NaN is in no range.
        inside = (flat >= low) & (flat < high + 1) & (flat == np.floor(flat))
        _note(flaws, ~inside, flat, name, f"an integer, {dtype}")
        return
    info = np.iinfo(flat.dtype)
    if info.min < low or info.max > high:
        outside = np.zeros(flat.shape, bool)
        if info.min < low:
            outside |= flat < max(low, info.min)
        if info.max > high:
            outside |= flat > min(high, info.max)
        _note(flaws, outside, flat, name, f"{dtype}, {low} to {high}")


def _note(flaws: dict[int, str], wrong: Array, flat: Array, name: str, expected: str) -> None:
    """Add the rows with a wrong value, [N, F], that have no flaw yet; the first value is named."""
    for place in np.flatnonzero(wrong.any(axis=1)).tolist():
        element = int(np.argmax(wrong[place]))
        where = f", number {element} of {flat.shape[1]}" if flat.shape[1] > 1 else ""
        flaws.setdefault(
            place,
            f"input {name!r}: expected {expected}, found {flat[place, element]}{where}",
        )
