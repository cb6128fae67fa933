"""Strict JSON: values are read by type and field, and refused with the path of the fault.

A reader is a function (value, path) → checked value; readers combine: ``record`` of ``map_of`` of
``string``. The rule: nothing is converted, skipped or filled in. A field that is missing, unknown
or of another type is a ``ManifestError`` that says where it is and what was expected.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from maas_sdk.errors import InputError, ManifestError

__all__ = [
    "Reader",
    "decode",
    "exactly",
    "kind_of",
    "list_of",
    "map_of",
    "number",
    "or_null",
    "record",
    "string",
]

# (value, path of the value) → checked value; raises ManifestError.
Reader = Callable[[Any, str], Any]

_KINDS: Final = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "null",
}


def kind_of(value: object) -> str:
    """Return JSON's word for a value, for messages."""
    return _KINDS.get(type(value), type(value).__name__)


def decode(data: bytes) -> Any:
    """Parse JSON in UTF-8.

    Raises:
        ValueError: not JSON, another encoding, the same key twice, NaN or Infinity.
        RecursionError: nested too deeply.
    """
    # Decoded here: json itself would also take UTF-16 and UTF-32.
    return json.loads(data.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the same key twice: {', '.join(twice)}")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def string(value: Any, path: str) -> str:
    """Read text that UTF-8 can hold."""
    if type(value) is not str:
        raise ManifestError(f"{path}: expected a string, got {kind_of(value)}")
    _encodable(value, path)
    return value


def _encodable(text: str, path: str) -> None:
    """Refuse half a surrogate pair, which JSON can spell and UTF-8 cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ManifestError(f"{path!a}: {text!a} is not valid text") from error


def exactly(kind: type) -> Reader:
    """A reader of one JSON type: no bool for an int, no int for a float."""

    def read(value: Any, path: str) -> Any:
        if type(value) is not kind:
            raise ManifestError(f"{path}: expected {_KINDS[kind]}, got {kind_of(value)}")
        return value

    return read


def number(value: Any, path: str) -> float:
    """Read a finite number, whole or not."""
    if type(value) not in (int, float):
        raise ManifestError(f"{path}: expected a number, got {kind_of(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ManifestError(f"{path}: expected a finite number")
    return number


def list_of(read: Reader) -> Reader:
    """Return a reader of a list whose items ``read`` takes, as a tuple."""

    def read_list(value: Any, path: str) -> tuple[Any, ...]:
        exactly(list)(value, path)
        return tuple(read(item, f"{path}[{index}]") for index, item in enumerate(value))

    return read_list


def map_of(read: Reader) -> Reader:
    """A reader of an object with any keys, whose values ``read`` takes."""

    def read_map(value: Any, path: str) -> dict[str, Any]:
        exactly(dict)(value, path)
        for name in value:
            _encodable(name, path)
        return {name: read(item, f"{path}.{name}") for name, item in value.items()}

    return read_map


def or_null(read: Reader) -> Reader:
    """A reader that also takes null, as None."""
    return lambda value, path: None if value is None else read(value, path)


def record(make: Callable[..., Any], fields: Mapping[str, Reader]) -> Reader:
    """A reader of an object with exactly ``fields``, handed to ``make`` by keyword."""

    def read_record(value: Any, path: str) -> Any:
        exactly(dict)(value, path)
        missing, unknown = fields.keys() - value.keys(), value.keys() - fields.keys()
        if missing or unknown:
            raise ManifestError(
                f"{path}: "
                + "; ".join(
                    f"{word} field{'s' if len(names) > 1 else ''} "
                    + ascii(", ".join(sorted(names)))[1:-1]
                    for word, names in (("missing", missing), ("unknown", unknown))
                    if names
                ),
                missing=sorted(missing),
                unknown=sorted(unknown),
            )
        read_fields = {name: read(value[name], f"{path}.{name}") for name, read in fields.items()}
        try:
            return make(**read_fields)
        except InputError as error:  # a TensorSpec refused its dtype or shape
            raise ManifestError(f"{path}: {error}") from error

    return read_record
