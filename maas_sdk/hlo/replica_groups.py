"""Devices of a collective: the three ways in which XLA writes it, and mesh axes.

The rule it keeps: a group is a tuple of positions in the mesh's devices, in row-major order, which
is what XLA's global device ids are under ``jax.jit``.

The three forms, for 8 devices as a mesh of 2 × 4, groups along the first axis:

- a list: ``{{0,4},{1,5},{2,6},{3,7}}``; ``{}`` is one group of all;
- iota: ``[4,2]<=[2,4]T(1,0)``: count up, shape as [2,4], transpose, read as 4 groups of 2;
- mesh: ``mesh['a'=2,'b'=4] {'a'}``; ``'b':(2)2`` is a part of an axis, the one of size 2 below an
  outer one of size 2; ``device_ids=(…)`` gives the mesh's devices where they are not in order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Final

import numpy as np

from maas_sdk.errors import InputError

__all__ = ["Groups", "axes_of_groups", "axes_of_pairs", "parse_groups", "parse_pairs"]

Groups = tuple[tuple[int, ...], ...]

# More devices than any slice has; junk must not make us take memory.
_MAX_DEVICES: Final = 1 << 20
_IOTA: Final = r"\[([\d,]{1,80})\]<=\[([\d,]{1,80})\](?:T\(([\d,]{1,80})\))?"
_LIST: Final = re.compile(r"\{((?:\{[\d, ]*\},?\s*)*)\}")
_AXIS: Final = re.compile(r"'([^']*)'=(\d{1,9})")
_REFERENCE: Final = re.compile(r"'([^']*)'(?::\((\d{1,9})\)(\d{1,9}))?")


def parse_groups(attributes: str, devices: int) -> Groups:
    """``replica_groups=…`` of an instruction's attributes.

    Args:
        attributes: what the instruction's line says after its operands.
        devices: of the whole program, for the empty list and for text without groups.

    Raises:
        InputError: groups in a form that is not one of the three.
    """
    _check(devices)
    _, found, text = attributes.partition("replica_groups=")
    if not found or re.match(r"\{\s*\}", text):
        return (tuple(range(devices)),)
    if match := _LIST.match(text):
        lists = re.findall(r"\{([\d, ]*)\}", match[1])
        return tuple(_numbers(part) for part in lists if part.strip())
    if match := re.match(_IOTA, text):
        return _rows(_iota(match.groups()), _numbers(match[1])[-1])
    if text.startswith("mesh["):
        return _from_mesh(text)
    raise InputError(f"replica_groups in an unknown form: {text[:60]!r}")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n[:18]) for n in re.findall(r"\d+", text))


def _check(devices: int) -> None:
    if not 0 < devices <= _MAX_DEVICES:
        raise InputError(f"replica_groups over {devices} devices; expected 1 to {_MAX_DEVICES}")


def _iota(parts: Sequence[str | None]) -> np.ndarray:
    """Return device ids in the order that an iota names."""
    shape, source, order = (_numbers(part or "") for part in parts)
    _check(math.prod(source))
    if math.prod(shape) != math.prod(source) or (order and sorted(order) != [*range(len(source))]):
        raise InputError(f"replica_groups: {shape} cannot be made of {source} transposed {order}")
    ids = np.arange(math.prod(source)).reshape(source)
    return (ids.transpose(order) if order else ids).reshape(-1)


def _rows(ids: np.ndarray, size: int) -> Groups:
    return tuple(tuple(int(i) for i in row) for row in ids.reshape(-1, size))


def _from_mesh(text: str) -> Groups:
    inside, _, rest = text[len("mesh[") :].partition("]")
    sizes = {name: int(size) for name, size in _AXIS.findall(inside)}
    _check(math.prod(sizes.values()))
    if permuted := re.search(rf"device_ids=\(?{_IOTA}", rest):
        ids = _iota(permuted.groups())
    elif listed := re.search(r"device_ids=\(([\d, ]+)\)", rest):
        ids = np.array(_numbers(listed[1]))
    else:
        ids = np.arange(math.prod(sizes.values()))
    if ids.size != math.prod(sizes.values()):
        raise InputError(f"replica_groups: {ids.size} device ids for a mesh of {sizes}")
    chosen = re.search(r"\{([^}]*)\}", rest)
    if chosen is None:
        raise InputError(f"replica_groups: no axes are named in {text[:80]!r}")
    # Each axis is cut into what is outside a part of it, the part, and what is inside.
    shape: list[int] = []
    grouped: list[int] = []
    parts: dict[str, list[tuple[int, int]]] = {}
    for name, outer, size in _REFERENCE.findall(chosen[1]):
        if name not in sizes:
            raise InputError(f"replica_groups: no axis {name!r} in the mesh of {sizes}")
        parts.setdefault(name, []).append((int(outer or 1), int(size or sizes[name])))
    for name, whole in sizes.items():
        at = 1
        for outer, size in sorted(parts.get(name, [])):
            if not outer or not size or outer % at or whole % (outer * size):
                raise InputError(
                    f"replica_groups: axis {name!r} of {whole} has no part ({outer}){size}"
                )
            shape += [outer // at, size]
            grouped.append(len(shape) - 1)
            at = outer * size
        shape.append(whole // at)
    rest_axes = [axis for axis in range(len(shape)) if axis not in grouped]
    ordered = ids.reshape(shape).transpose([*rest_axes, *grouped])
    return _rows(ordered, math.prod(shape[axis] for axis in grouped))


def parse_pairs(attributes: str) -> Groups:
    """``source_target_pairs={{0,1},{1,0}}`` of a collective-permute: (from, to) pairs."""
    _, _, text = attributes.partition("source_target_pairs=")
    match = _LIST.match(text)
    found = re.findall(r"\{([\d, ]*)\}", match[1]) if match else []
    return tuple(_numbers(part) for part in found if len(_numbers(part)) == 2)


def axes_of_groups(groups: Groups, axes: Mapping[str, int]) -> tuple[str, ...] | None:
    """Return the mesh axes of device groups; None when they are no product of whole axes.

    Args:
        groups: positions in the mesh.
        axes: sizes by name, in the mesh's order.
    """
    names = [name for name, size in axes.items() if size > 1]
    ids = np.arange(math.prod(axes.values())).reshape(tuple(axes.values()))
    order = list(axes)
    wanted = {frozenset(group) for group in groups}
    size = len(groups[0]) if groups else 0
    for count in range(len(names) + 1):
        for chosen in combinations(names, count):
            if math.prod(axes[name] for name in chosen) != size:
                continue
            inside = [order.index(name) for name in chosen]
            outside = [axis for axis in range(len(order)) if axis not in inside]
            if wanted == {frozenset(g) for g in _rows(ids.transpose([*outside, *inside]), size)}:
                return chosen
    return None


def axes_of_pairs(pairs: Groups, axes: Mapping[str, int]) -> tuple[str, ...] | None:
    """Return the mesh axes along which a permutation moves anything."""
    shape = tuple(axes.values())
    total = math.prod(shape)
    moved: set[str] = set()
    for source, target in pairs:
        if source >= total or target >= total:
            return None
        places = zip(np.unravel_index(source, shape), np.unravel_index(target, shape), strict=True)
        moved |= {name for name, (a, b) in zip(axes, places, strict=True) if a != b}
    return tuple(name for name in axes if name in moved)
