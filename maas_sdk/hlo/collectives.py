"""The collectives of a compiled program: kind, size, participating devices, and count.

The cost of a layout is decided by the compiler, and is found only in the text of the compiled
program. So plans, explanations and tests read it here.

The rule it keeps: each collective that runs is counted once per run. An asynchronous one
(``-start`` … ``-done``) is one; so is one that the TPU compiler has cut over several fusions to
run it beside a matmul; one in a loop counts as often as the loop turns; and what the TPU compiler
writes as an all-reduce fused with the slice that each device keeps is the reduce-scatter that it
runs.

Bytes are those of **one device**:

- ``nbytes``: of the result, as the program holds it;
- ``moved_bytes``: sent over its links by a ring of ``n`` devices (Patarasuk and Yuan 2009,
  https://doi.org/10.1016/j.jpdc.2008.09.002), with R the result's bytes: all-gather and all-to-all
  R (n-1)/n; reduce-scatter R (n-1); all-reduce 2 R (n-1)/n; collective-permute R.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from maas_sdk.hlo.module import (
    ArrayShape,
    Computation,
    HloModule,
    Instruction,
    array_shapes,
    parse_module,
    tuple_elements,
)
from maas_sdk.hlo.replica_groups import (
    Groups,
    axes_of_groups,
    axes_of_pairs,
    parse_groups,
    parse_pairs,
)
from maas_sdk.hlo.trip_counts import runs

__all__ = ["KINDS", "Collective", "collectives", "collectives_of"]

_MOVED: Final[Mapping[str, Callable[[int, int], float]]] = {
    "all-reduce": lambda nbytes, n: 2 * nbytes * (n - 1) / n,
    "all-gather": lambda nbytes, n: nbytes * (n - 1) / n,
    "reduce-scatter": lambda nbytes, n: nbytes * (n - 1),
    "all-to-all": lambda nbytes, n: nbytes * (n - 1) / n,
    "collective-permute": lambda nbytes, n: nbytes if n > 1 else 0,
}

# In the order in which tables show them.
KINDS: Final = tuple(_MOVED)

_OPCODES: Final = {
    **{kind: kind for kind in KINDS},
    **{f"{kind}-start": kind for kind in KINDS},
    "ragged-all-to-all": "all-to-all",
    "collective-broadcast": "collective-permute",
}

# How the TPU compiler marks the copies of a collective that it has cut over several fusions, and
# the fusion that starts it.
_CHAIN: Final = 'chain_id="'
_STARTS: Final = 'custom_call_target="AsyncCollectiveStart"'


@dataclass(frozen=True, kw_only=True, slots=True)
class Collective:
    """One collective of a program."""

    # One of KINDS.
    kind: str
    # The instruction's name in the text, and where in the user's code it comes from ("" unknown).
    name: str
    source: str
    # The result on one device; more than one where the compiler has combined several.
    shapes: tuple[ArrayShape, ...]
    # Positions in the mesh. For a collective-permute the (from, to) pairs.
    groups: Groups
    # Devices that take part together; for a collective-permute the length of its longest chain.
    group_size: int
    # How often one call of the program runs it.
    times: int
    # False when a loop around it does not say how often it turns; it is then counted as one turn.
    times_known: bool
    # The mesh axes that it runs along; None when no mesh was given, or it follows none.
    axes: tuple[str, ...] | None

    @property
    def nbytes(self) -> int:
        """Bytes of the result on one device, of one run."""
        return sum(shape.nbytes for shape in self.shapes)

    @property
    def moved_bytes(self) -> float:
        """Bytes that one device sends in one run, by a ring algorithm."""
        return _MOVED[self.kind](self.nbytes, max(1, self.group_size))


def collectives(text: str, axes: Mapping[str, int] | None = None) -> tuple[Collective, ...]:
    """All collectives of a compiled program that move anything, in the order of the text.

    Args:
        text: ``compiled.as_text()``, of the CPU or the TPU compiler.
        axes: ``mesh.shape``, to name the axes that each runs along.

    Raises:
        InputError: the text is no compiled program, or a collective in it cannot be read.
    """
    return collectives_of(parse_module(text), axes)


def collectives_of(
    module: HloModule, axes: Mapping[str, int] | None = None
) -> tuple[Collective, ...]:
    """Return the collectives of a program that is parsed already."""
    counts = runs(module)
    found: list[Collective] = []
    for computation in module.computations.values():
        times, known = counts[computation.name]
        if not times:
            continue
        starts = any(_STARTS in i.attributes for i in computation.instructions)
        for instruction in computation.instructions:
            kind = _OPCODES.get(instruction.opcode)
            # Of the fusions that one collective is cut over, the first one starts it.
            if kind is None or (_CHAIN in instruction.attributes and not starts):
                continue
            one = _collective(module, computation, instruction, kind, times, known, axes)
            if one.group_size > 1:
                found.append(one)
    return tuple(found)


def _collective(
    module: HloModule,
    computation: Computation,
    instruction: Instruction,
    kind: str,
    times: int,
    known: bool,
    axes: Mapping[str, int] | None,
) -> Collective:
    result = instruction.shape
    if instruction.opcode.endswith("-start") and kind != "all-reduce":
        # (operands, results, …): what is being sent, what will be there, and semaphores.
        elements = tuple_elements(result)
        result = elements[1] if len(elements) > 1 else result
    root = computation.root
    if kind == "all-reduce" and "all-reduce-scatter" in computation.name and root is not None:
        kind, result = "reduce-scatter", root.shape
    if instruction.opcode.startswith("collective-permute"):
        groups = parse_pairs(instruction.attributes)
        size = _longest_chain(groups)
        along = axes_of_pairs(groups, axes) if axes else None
    else:
        groups = parse_groups(instruction.attributes, module.devices)
        size = max((len(group) for group in groups), default=0)
        along = axes_of_groups(groups, axes) if axes else None
    source = re.search(r'op_name="([^"]*)"', instruction.attributes)
    return Collective(
        kind=kind,
        name=instruction.name,
        source=source[1] if source else "",
        shapes=array_shapes(result),
        groups=groups,
        group_size=size,
        times=times,
        times_known=known,
        axes=along,
    )


def _longest_chain(pairs: Groups) -> int:
    """Return the number of devices on the longest path of data of a repeated permutation."""
    targets = {pair[0]: pair[1] for pair in pairs}
    longest = 0
    unseen = set(targets)
    heads = [source for source in targets if source not in set(targets.values())]
    for start in _starts(heads, unseen):
        size, at = 1, start
        while at in unseen:
            unseen.discard(at)
            at = targets[at]
            size += at != start
        longest = max(longest, size)
    return longest if any(a != b for a, b in pairs) else min(1, len(pairs))


def _starts(heads: list[int], unseen: set[int]) -> Iterator[int]:
    """Yield ends of open chains first, then devices left on rings."""
    yield from heads
    while unseen:
        yield min(unseen)
