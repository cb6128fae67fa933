"""A tensor in JSON: nested lists, outermost dimension first, ↔ an array.

The rule: a JSON number has no dtype, so the program's signature gives it one, and a number that
this dtype cannot hold is refused, with its place, instead of being wrapped or cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NoReturn

import numpy as np

from maas_sdk.errors import InputError, TooLargeError
from maas_sdk.tensors import Array, TensorSpec, dtype_from_name

__all__ = ["array_from_json", "array_to_json", "json_kind"]

# As many dimensions as a frame may have, see ``frame_reader.FrameLimits``.
_MAX_RANK: Final = 32
_KINDS: Final[dict[type, str]] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "a whole number",
    float: "a number with a fraction",
    type(None): "null",
}


def json_kind(value: object) -> str:
    """Return JSON's word for the type of a parsed value."""
    return _KINDS.get(type(value), type(value).__name__)


def array_from_json(value: Any, spec: TensorSpec, where: str, suffix: str = "") -> Array:
    """Nested lists → an array of the spec's dtype; its shape is the lists', unchecked.

    Args:
        value: what ``json`` made of the document.
        spec: the tensor as the program wants it.
        where: what the value is called in a message, such as ``instances``.
        suffix: stands after the first index: ``instances[3].x[0]``.

    Raises:
        InputError: ragged lists, another JSON type than the dtype takes, a number out of its range.
    """
    shape = _shape(value, where, suffix)
    kind, wanted = _kinds_of(spec.dtype)
    flat = _flatten(value, len(shape))
    for index, item in enumerate(flat):
        if type(item) not in kind:
            _refuse(index, shape, where, suffix, f"expected {wanted}, got {json_kind(item)}")
    dtype = dtype_from_name(spec.dtype)
    if int in kind and float not in kind:
        low, high = _bounds(dtype)
        if flat and not (low <= min(flat) and max(flat) <= high):
            index = next(i for i, item in enumerate(flat) if not low <= item <= high)
            _refuse(
                index,
                shape,
                where,
                suffix,
                f"{flat[index]} is out of range of {spec.dtype}, {low} to {high}",
            )
        wide = np.array(flat, np.uint64 if low == 0 else np.int64)
        return wide.astype(dtype).reshape(shape)
    if kind == {bool}:
        return np.array(flat, np.bool_).reshape(shape)
    try:
        doubles = np.array(flat, np.float64)
    except OverflowError:  # a whole number with more digits than a double has
        index = next(i for i, item in enumerate(flat) if type(item) is int and abs(item) > 2**1023)
        _refuse(index, shape, where, suffix, f"a number out of range of {spec.dtype}")
    with np.errstate(all="ignore"):
        array = doubles.astype(dtype)
        overflowed = np.isfinite(doubles) & ~np.isfinite(array.astype(np.float64))
    if overflowed.any():
        index = int(np.argmax(overflowed))
        _refuse(index, shape, where, suffix, f"{doubles[index]:g} is out of range of {spec.dtype}")
    return array.reshape(shape)


def _shape(value: Any, where: str, suffix: str) -> tuple[int, ...]:
    """Return dimensions of nested lists, read off the first elements and then compared with all."""
    shape: list[int] = []
    first = value
    while type(first) is list:
        shape.append(len(first))
        if len(shape) > _MAX_RANK:
            raise TooLargeError(f"{where}{suffix}: lists nested deeper than {_MAX_RANK}")
        if not first:
            break
        first = first[0]
    level = [value]
    for depth, size in enumerate(shape):
        for index, item in enumerate(level):
            if type(item) is not list or len(item) != size:
                came = f"a list of {len(item)}" if type(item) is list else json_kind(item)
                _refuse(
                    index, shape[:depth], where, suffix, f"expected a list of {size}, got {came}"
                )
        level = [item for items in level for item in items]
    for index, item in enumerate(level):
        if type(item) is list:
            _refuse(index, shape, where, suffix, f"expected a value, got a list of {len(item)}")
    return tuple(shape)


def _flatten(value: Any, depth: int) -> list[Any]:
    level = [value]
    for _ in range(depth):
        level = [item for items in level for item in items]
    return level


def _refuse(
    flat_index: int, shape: Sequence[int], where: str, suffix: str, problem: str
) -> NoReturn:
    """Raise ``InputError`` for the element at ``flat_index`` of a tensor of ``shape``."""
    places = [int(place) for place in np.unravel_index(flat_index, tuple(shape))] if shape else []
    row, rest = places[:1], places[1:]
    path = "".join(f"[{place}]" for place in row) + suffix + "".join(f"[{p}]" for p in rest)
    raise InputError(f"{where}{path}: {problem}", place=where + path)


def _kinds_of(dtype: str) -> tuple[frozenset[type], str]:
    """Return the JSON values that a dtype takes, as Python types and in words."""
    if dtype == "bool":
        return frozenset({bool}), "true or false"
    if "complex" in dtype:
        raise InputError(f"dtype {dtype} has no form in JSON: send a msgpack frame")
    if dtype.startswith(("int", "uint")):
        return frozenset({int}), "a whole number"
    return frozenset({int, float}), "a number"


def _bounds(dtype: np.dtype[Any]) -> tuple[int, int]:
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    import ml_dtypes

    info: Any = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    return int(info.min), int(info.max)


def array_to_json(name: str, array: Array) -> Any:
    """Return nested lists of JSON values, floats with enough digits to be exact."""
    kind = array.dtype.name
    if "complex" in kind:
        raise InputError(f"output {name!r}: dtype {kind} has no form in JSON: ask with msgpack")
    if kind == "bool" or array.dtype.kind in "iu":
        return array.tolist()
    if kind.startswith(("int", "uint")):
        return array.astype(np.int64).tolist()
    if kind in ("float32", "float64"):
        return array.tolist()
    return array.astype(np.float32).tolist()
