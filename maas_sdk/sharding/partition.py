"""Partition of one parameter.

The rule it keeps: the most specific source decides, in this order: the user's rules; the axes that
the module's author annotated; the preset rules for well-known names; automatic FSDP, which cuts the
largest dimension that divides; and whole on every device. A dimension that its axis does not divide
stays whole, and the plan notes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from jax.sharding import PartitionSpec

from maas_sdk.errors import ConfigError
from maas_sdk.model.leaf import Leaf
from maas_sdk.sharding.mesh import ALIASES, AXES
from maas_sdk.sharding.rules import Partition, Rule, axes_of, first_match

__all__ = [
    "MIN_SHARD_BYTES",
    "LeafPlan",
    "Policies",
    "Source",
    "follow",
    "plan_as",
    "plan_leaf",
    "spec_of",
]

# Smaller parameters stay whole unless a rule says otherwise. Sending 64 KiB over a link of 50 GB/s
# takes 1.3 µs, about as long as starting a collective does: less is not worth gathering.
MIN_SHARD_BYTES: Final = 2**16

# Where a decision comes from, the closest first.
Source = Literal["rule", "annotation", "preset", "automatic", "follows", "whole"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LeafPlan:
    """Partition of one parameter, and its reason."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    # Where the decision comes from.
    source: Source
    # The rule that matched, or the annotation, as text; "" where there is none.
    matched: str
    # One entry per dimension.
    partition: Partition
    nbytes: int
    # Of the largest part; the last one may be as large, never larger.
    bytes_per_device: int
    # What could not be done as asked, each with the remedy.
    notes: tuple[str, ...] = ()

    @property
    def spec(self) -> PartitionSpec:
        """The partition as jax writes it."""
        return spec_of(self.partition)

    @property
    def whole(self) -> bool:
        """True when every device holds the whole parameter."""
        return self.bytes_per_device == self.nbytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Policies:
    """Inputs of a partition decision, besides the parameter itself."""

    # Size of each axis of the mesh.
    mesh: Mapping[str, int]
    # Axes that annotations, presets and automatic FSDP may use; rules may use all.
    weight_axes: tuple[str, ...]
    rules: Sequence[Rule]
    presets: Sequence[Rule]
    logical_axes: Mapping[str, tuple[str, ...]]
    min_shard_bytes: int = MIN_SHARD_BYTES


def plan_leaf(leaf: Leaf, policies: Policies) -> LeafPlan:
    """Decide the partition of one parameter.

    Raises:
        ConfigError: a rule of the user's names more dimensions than the parameter has.
    """
    rule = first_match(policies.rules, leaf.name)
    if rule is not None:
        wanted = _aligned(rule, leaf)
        return _finished(leaf, policies, "rule", str(rule), wanted, tuple(AXES))
    if not policies.weight_axes:
        return _finished(leaf, policies, "whole", "", (None,) * len(leaf.shape), ())
    allowed = (*policies.weight_axes, "expert", "stage")
    if leaf.axes is not None:
        wanted, notes = _annotated(leaf, policies)
        text = f"annotation ({', '.join(str(axis or '-') for axis in leaf.axes)})"
        return _finished(leaf, policies, "annotation", text, wanted, allowed, notes)
    preset = first_match(policies.presets, leaf.name)
    if preset is not None and len(preset.partition) <= len(leaf.shape):
        wanted = _aligned(preset, leaf)
        plan = _finished(leaf, policies, "preset", str(preset), wanted, allowed)
        if not plan.whole:
            return plan
        # Nothing came of it: it names axes that are not cut here, or sizes that do not divide.
        automatic = _automatic(leaf, policies)
        if automatic is None or automatic.whole:
            return replace(plan, source="whole", matched="")
        return automatic
    return _automatic(leaf, policies) or _finished(
        leaf, policies, "whole", "", (None,) * len(leaf.shape), ()
    )


def plan_as(leaf: Leaf, partition: Partition, weight: str, policies: Policies) -> LeafPlan:
    """Decide the partition of an array that follows a weight, as computed by ``follow``."""
    return _finished(leaf, policies, "follows", f"follows {weight}", partition, tuple(AXES))


def follow(
    partition: Partition, shape: tuple[int, ...], own: tuple[int, ...], mesh: Mapping[str, int]
) -> Partition:
    """Return the partition of arrays that belong to a weight: its moments, average, scales.

    An array of the weight's shape is cut as the weight is. A dimension of another size (1 for a
    scale per channel, the count of tiles for one per tile) keeps the weight's axes where they
    divide it, and stays whole otherwise. An array that lacks dimensions of the weight (a factored
    second moment) takes the entries of those it has, where they can be told apart.

    Args:
        partition: the weight's, one entry per dimension.
        shape: the weight's.
        own: the shape of what follows.
        mesh: size of each axis.
    """
    if len(own) == len(shape):
        entries = list(partition)
    else:
        kept = _kept_dimensions(shape, own)
        entries = [None] * len(own) if kept is None else [partition[d] for d in kept]
    return tuple(
        entry if size % _parts(entry, mesh) == 0 and size > 1 else None
        for entry, size in zip(entries, own, strict=True)
    )


def spec_of(partition: Partition) -> PartitionSpec:
    """Return a partition as jax writes it, without the Nones at its end."""
    entries = list(partition)
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)  # type: ignore[no-untyped-call]


def _kept_dimensions(shape: tuple[int, ...], own: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the dimensions of ``shape`` left in ``own``, when only one choice is possible."""
    ways: list[tuple[int, ...]] = [()]
    for size in own:
        ways = [
            (*way, d)
            for way in ways
            for d in range(way[-1] + 1 if way else 0, len(shape))
            if shape[d] == size
        ]
    return ways[0] if len(ways) == 1 else None


def _aligned(rule: Rule, leaf: Leaf) -> Partition:
    """Return one entry per dimension: those that a stack has in front stay whole."""
    missing = len(leaf.shape) - len(rule.partition)
    if missing < 0:
        raise ConfigError(
            f"rule {rule.pattern!r} names {len(rule.partition)} dimensions, but it matches "
            f"{leaf.name!r}, which has {len(leaf.shape)} {list(leaf.shape)}; make the pattern "
            'narrower (end it with "kernel$"), or put a rule for this parameter in front',
            pattern=rule.pattern,
            path=leaf.name,
        )
    return (None,) * missing + rule.partition


def _annotated(leaf: Leaf, policies: Policies) -> tuple[Partition, tuple[str, ...]]:
    """Return the author's names of dimensions as mesh axes; each axis is used once."""
    entries: list[tuple[str, ...]] = []
    notes: list[str] = []
    used: set[str] = set()
    for given in leaf.axes or ():
        entry: tuple[str, ...] = ()
        for name in (given,) if isinstance(given, str) else (given or ()):
            known = ALIASES.get(name, name)
            if name in policies.logical_axes:
                axes = policies.logical_axes[name]
            elif known in AXES:
                axes = (known,)
            else:
                axes = ()
                notes.append(
                    f"{leaf.name}: the annotated axis {name!r} is in no table, so its dimension "
                    f'stays whole; name it: logical_axes={{**LOGICAL_AXES, "{name}": ("fsdp",)}}'
                )
            entry += tuple(axis for axis in axes if axis not in used)
            used.update(axes)
        entries.append(entry)
    return tuple(_entry(entry) for entry in entries), tuple(notes)


def _automatic(leaf: Leaf, policies: Policies) -> LeafPlan | None:
    """Shard by FSDP, for no matching rule: the largest dimension that divides; None if none.

    The idea, and to prefer the last of equal dimensions, is from big_vision's sharding module.
    """
    parts = policies.mesh.get("fsdp", 1)
    if "fsdp" not in policies.weight_axes or parts == 1 or leaf.nbytes < policies.min_shard_bytes:
        return None
    divisible = [d for d, size in enumerate(leaf.shape) if size % parts == 0 and size]
    if not divisible:
        text = f"{leaf.name}: no dimension of {list(leaf.shape)} divides by fsdp={parts}; pad one"
        whole = (None,) * len(leaf.shape)
        return _finished(leaf, policies, "whole", "", whole, (), (text,))
    largest = max(divisible, key=lambda d: (leaf.shape[d], d))
    wanted = tuple("fsdp" if d == largest else None for d in range(len(leaf.shape)))
    return _finished(leaf, policies, "automatic", "", wanted, ("fsdp",))


def _restricted(
    wanted: Partition, policies: Policies, allowed: tuple[str, ...]
) -> tuple[tuple[str, ...], ...]:
    """Return a partition without axes that are forbidden, missing or of size one."""
    return tuple(
        tuple(a for a in axes_of(entry) if a in allowed and policies.mesh.get(a, 1) > 1)
        for entry in wanted
    )


def _finished(
    leaf: Leaf,
    policies: Policies,
    source: Source,
    matched: str,
    wanted: Partition,
    allowed: tuple[str, ...],
    notes: tuple[str, ...] = (),
) -> LeafPlan:
    """Return the partition as far as mesh and sizes allow it."""
    entries: list[tuple[str, ...]] = []
    said = list(notes)
    for d, entry in enumerate(_restricted(wanted, policies, allowed)):
        parts = _parts(entry, policies.mesh)
        if leaf.shape[d] % parts == 0 and leaf.shape[d]:
            entries.append(entry)
            continue
        entries.append(())
        if leaf.shape[d] > 1:
            padded = math.ceil(leaf.shape[d] / parts) * parts
            said.append(
                f"{leaf.name}: dimension {d} of {list(leaf.shape)} does not divide by "
                f"{'+'.join(entry)}={parts}, so it stays whole; pad it to {padded}, or choose "
                "another mesh or rule"
            )
    partition = tuple(_entry(entry) for entry in entries)
    parts = math.prod(_parts(entry, policies.mesh) for entry in partition)
    return LeafPlan(
        path=leaf.name,
        shape=leaf.shape,
        dtype=leaf.dtype,
        source=source,
        matched=matched,
        partition=partition,
        nbytes=leaf.nbytes,
        bytes_per_device=math.ceil(leaf.nbytes / parts),
        notes=tuple(said),
    )


def _entry(axes: tuple[str, ...]) -> str | tuple[str, ...] | None:
    return axes[0] if len(axes) == 1 else (axes or None)


def _parts(entry: str | tuple[str, ...] | None, mesh: Mapping[str, int]) -> int:
    return math.prod(mesh.get(axis, 1) for axis in axes_of(entry))
