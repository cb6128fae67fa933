"""Warnings about a layout: rules without effect, a mostly replicated model.

The rule it keeps: each warning names the parameter or the rule, and says what to do.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

from maas_sdk.charts.quantities import data_size, percent
from maas_sdk.sharding.partition import LeafPlan
from maas_sdk.sharding.rules import Rule, axes_of, matches

__all__ = ["MAX_REPLICATED_SHARE", "mostly_whole", "replicated_share", "unmatched", "unused_axes"]

# A model of which more than this share is whole on every device is worth a warning. MaxText stops
# at the same share (``sharding_tolerance`` in its configuration).
MAX_REPLICATED_SHARE: Final = 0.02


def unmatched(rules: Sequence[Rule], rows: Sequence[LeafPlan]) -> tuple[str, ...]:
    """Return the user's rules that match nothing, each with advice."""
    said = []
    for rule in rules:
        if any(row.source == "rule" and row.matched == str(rule) for row in rows):
            continue
        others = [row for row in rows if matches(rule, row.path)]
        if others:
            said.append(
                f"rule {rule.pattern!r} decides about nothing: {others[0].path!r} is decided by "
                f"an earlier rule, {others[0].matched!r}; put the narrower rule in front"
            )
            continue
        nearest = _nearest(rule.pattern, [row.path for row in rows])
        said.append(
            f"rule {rule.pattern!r} matches no parameter; mend or remove it. The nearest name is "
            f"{nearest or 'none: there are no parameters'}"
        )
    return tuple(said)


def unused_axes(
    rows: Sequence[LeafPlan], name: str, axes: Sequence[str], mesh: Mapping[str, int]
) -> tuple[str, ...]:
    """Return axes that a strategy needs and the mesh lacks, and those that only repeat work."""
    said = [
        f"strategy {name!r} cuts weights over {axis!r}, which this mesh ({', '.join(mesh)}) does "
        f"not have, so nothing is cut along it; make the mesh with mesh_for({name!r})"
        for axis in axes
        if axis not in mesh
    ]
    used = {axis for row in rows for entry in row.partition for axis in axes_of(entry)}
    said += [
        f"mesh axis {axis!r} cuts nothing: its {mesh[axis]} devices all do the same work; give it "
        "to another axis, or say in a rule what it cuts"
        for axis in ("expert", "tensor")
        if rows and mesh.get(axis, 1) > 1 and axis not in used
    ]
    return tuple(said)


def mostly_whole(
    rows: Sequence[LeafPlan], name: str, axes: Sequence[str], mesh: Mapping[str, int]
) -> tuple[str, ...]:
    """Warn when more of the model is replicated than a sharding strategy should leave."""
    parts = math.prod(mesh.get(axis, 1) for axis in axes)
    share = replicated_share(rows)
    if parts == 1 or share <= MAX_REPLICATED_SHARE:
        return ()
    largest = max((row for row in rows if row.whole), key=lambda row: row.nbytes)
    return (
        f"{percent(share)} of the parameters' bytes are whole on every device under strategy "
        f"{name!r}, more than {percent(MAX_REPLICATED_SHARE, digits=0)}; the largest is "
        f"{largest.path!r} ({data_size(largest.nbytes)}): give it a rule"
        + (
            ", or lower min_shard_bytes"
            if "fsdp" in axes
            else ", or use 'fsdp+tensor', which cuts what no rule names"
        )
        + "; a model this small may be best off with strategy 'data'" * (largest.nbytes < 2**20),
    )


def replicated_share(rows: Sequence[LeafPlan]) -> float:
    """Return the share of all bytes that every device holds whole; 0 when there are none."""
    total = sum(row.nbytes for row in rows)
    return sum(row.nbytes for row in rows if row.whole) / total if total else 0.0


def _nearest(pattern: str, paths: Sequence[str]) -> str | None:
    """Return the path with a part, of the pattern's length in keys, that looks most like it."""
    word = re.sub(r"[^\w/]", "", pattern)
    length = word.count("/") + 1

    def likeness(path: str) -> float:
        keys = path.split("/")
        starts = range(max(1, len(keys) - length + 1))
        parts = ("/".join(keys[start : start + length]) for start in starts)
        return max(difflib.SequenceMatcher(None, word, part).ratio() for part in parts)

    return max(paths, key=likeness, default=None)
