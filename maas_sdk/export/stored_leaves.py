"""A model's leaves as the tensors and encodings of a bundle.

The rule: a leaf with a stored form is written in that form, every other as it is. The result has
passed the checks of a reader.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from maas_sdk.bundle.encoding.spec import Encoding, check_encodings, spec_of
from maas_sdk.errors import ExportError
from maas_sdk.model.leaf import Leaf
from maas_sdk.tensors import Array

__all__ = ["stored_form"]


def stored_form(
    leaves: Iterable[Leaf], consumed: Mapping[str, Encoding]
) -> tuple[dict[str, Array], dict[str, Encoding]]:
    """Return tensors by name, and encodings by name.

    Args:
        leaves: those that a program uses.
        consumed: encodings of what the programs consume as it is stored; one whose parts are not
            there, since no program uses them, is left out.

    Raises:
        ExportError: two different tensors, or encodings, have one name.
        CorruptError: an encoding does not fit its parts.
    """
    tensors: dict[str, Array] = {}
    encodings: dict[str, Encoding] = {}
    for leaf in leaves:
        stored = leaf.stored
        parts = {leaf.name: leaf.to_numpy()} if stored is None else stored.tensors
        for name, tensor in parts.items():
            known = tensors.setdefault(name, tensor)
            if known is not tensor and not _same(known, tensor):
                raise _twice(name, leaf)
        for name, encoding in ({} if stored is None else stored.encodings).items():
            if encodings.setdefault(name, encoding) != encoding:
                raise _twice(name, leaf)
    there = [name for name in consumed if _is_there(name, consumed, tensors, encodings)]
    for name in there:
        if encodings.setdefault(name, consumed[name]) != consumed[name]:
            raise ExportError(f"two different encodings are named {name!r}: rename one")
    check_encodings(encodings, {name: spec_of(tensor) for name, tensor in tensors.items()})
    return tensors, encodings


def _same(one: Array, other: Array) -> bool:
    return spec_of(one) == spec_of(other) and np.asarray(one).tobytes() == other.tobytes()


def _twice(name: str, leaf: Leaf) -> ExportError:
    return ExportError(
        f"weight {leaf.name!r}: two different tensors to be stored are named {name!r}: rename one",
        weight=leaf.name,
    )


def _is_there(
    name: str,
    consumed: Mapping[str, Encoding],
    tensors: Mapping[str, Array],
    encodings: Mapping[str, Encoding],
) -> bool:
    """Return True when all parts of an encoding are stored."""
    seen: set[str] = set()
    ahead = [name]
    while ahead:
        part = ahead.pop()
        if part in seen or part in tensors or part in encodings:
            continue
        seen.add(part)
        if part not in consumed:
            return False
        ahead += consumed[part].parts.values()
    return True
