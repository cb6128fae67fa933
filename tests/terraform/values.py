"""Values as Terraform sends them, and a walk over the blocks of a schema.

The rule it keeps: a value is changed in place only by the walk's caller, who made it by decoding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgpack

from tests.terraform.protocol import MESSAGES

__all__ = ["UNKNOWN", "decode", "encode", "invented", "is_unknown", "walk"]

# What is known only after apply.
UNKNOWN: Final = msgpack.ExtType(0, b"\0")


def is_unknown(value: object) -> bool:
    """Whether a value is known only after apply; with or without a refinement of what it can be."""
    return isinstance(value, msgpack.ExtType)


def decode(value: Any) -> Any:
    """A ``Value`` message → Python; None where it is empty."""
    if value.msgpack:
        return msgpack.unpackb(value.msgpack, raw=False, strict_map_key=False)
    return json.loads(value.json) if value.json else None


def encode(value: object) -> Any:
    """Python → a ``Value`` message."""
    return MESSAGES["Value"](msgpack=msgpack.packb(value))


def walk(
    block: Mapping[str, Any], value: dict[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any], dict[str, Any]]]:
    """Every attribute of a value: its path in the schema, what the schema says, its container."""
    for name, attribute in block.get("attributes", {}).items():
        yield (*path, name), attribute, value
    for name, nested in block.get("block_types", {}).items():
        found = value.get(name)
        for one in found if isinstance(found, list) else [found]:
            if isinstance(one, dict):
                yield from walk(nested["block"], one, (*path, name))


def invented(kind: Any, name: str) -> Any:
    """What a cloud might answer for an attribute that nobody set, by its type."""
    if isinstance(kind, str):
        return {"string": name, "number": 0, "bool": False}.get(kind)
    return {} if kind[0] in ("map", "object") else []
