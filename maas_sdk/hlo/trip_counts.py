"""Execution counts of a compiled program's computations: loops count by their trips.

The rule it keeps: a number is only given when the text proves it. Where the compiler states a trip
count (``known_trip_count``, on CPU) that is it; else (TPU) it is read off the loop: the condition
compares a counter with a constant, the counter starts at a constant, and the body adds a constant
to it. Any other loop counts as one turn, and what it runs is marked as uncertain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Final

from maas_sdk.errors import InputError
from maas_sdk.hlo.module import Computation, HloModule, Instruction

__all__ = ["runs", "trip_count"]

_KNOWN_TRIPS: Final = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_DIGITS: Final = re.compile(r"-?\d{1,18}")
# They hand a value on unchanged.
_THROUGH: Final = {"copy", "bitcast", "convert", "reshape", "copy-done"}


def runs(module: HloModule) -> dict[str, tuple[int, bool]]:
    """Return for each computation its runs in one call of the program, and whether that is certain.

    A loop whose trip count cannot be read counts once, and what it runs is uncertain. All branches
    of a conditional count.

    Raises:
        InputError: computations call one another in a circle, which no compiler emits.
    """
    edges: dict[str, list[tuple[str, int, bool]]] = {}
    for computation in module.computations.values():
        edges[computation.name] = [
            edge
            for instruction in computation.instructions
            for edge in _edges(module, computation, instruction)
        ]
    needs = TopologicalSorter({name: {e[0] for e in called} for name, called in edges.items()})
    try:
        order = list(needs.static_order())
    except CycleError as error:
        raise InputError(f"the text is no compiled program: {error.args[1]} are a circle") from None
    counts = dict.fromkeys(module.computations, (0, True)) | {module.entry: (1, True)}
    for caller in reversed(order):
        times, certain = counts.get(caller, (0, True))
        for callee, factor, known in edges.get(caller, ()) if times else ():
            if callee in counts:
                before, so_far = counts[callee]
                counts[callee] = (before + times * factor, so_far and certain and known)
    return counts


def _edges(
    module: HloModule, computation: Computation, instruction: Instruction
) -> Iterator[tuple[str, int, bool]]:
    if instruction.opcode.endswith(("-done", "-update")):
        return  # They name the computation that their -start runs.
    factor: int | None = 1
    if instruction.opcode == "while":
        factor = trip_count(module, computation, instruction)
    for _, name in instruction.called:
        yield name, 1 if factor is None else factor, factor is not None


def trip_count(module: HloModule, computation: Computation, loop: Instruction) -> int | None:
    """Return the number of a ``while``'s runs; None when the text does not say."""
    if stated := _KNOWN_TRIPS.search(loop.attributes):
        return int(stated[1][:18])
    called = dict(loop.called)
    condition, body = (module.computations.get(called.get(k, "")) for k in ("condition", "body"))
    if condition is None or body is None or not loop.operands:
        return None
    compared = _comparison(module, condition)
    if compared is None:
        return None
    counter, limit, direction = compared
    start = _element(computation, loop.operands[0], counter)
    step = _step(body, counter)
    # As text it is the index of an element of the loop's state.
    end = _unchanged(computation, loop, body, int(limit)) if isinstance(limit, str) else limit
    if start is None or end is None or not step:
        return None
    distance = end - start if step > 0 else start - end
    if direction in ("LE", "GE"):
        distance += 1
    return max(0, -(-distance // abs(step))) if direction != "EQ" else None


def _comparison(module: HloModule, condition: Computation) -> tuple[int, int | str, str] | None:
    """(index of the counter in the state, the limit or the index of one, direction)."""
    root, within, outside = condition.root, condition, condition
    bound: Mapping[str, str] = {}
    if root is not None and root.opcode in ("fusion", "call"):
        inner = module.computations.get(next((n for _, n in root.called), ""))
        if inner is None:
            return None
        numbers = {number: name for name, number in inner.parameters.items()}
        bound = {numbers[i]: name for i, name in enumerate(root.operands) if i in numbers}
        root, within = inner.root, inner
    if root is None or root.opcode != "compare" or len(root.operands) != 2:
        return None
    sides: list[int | str | None] = []
    for name in root.operands:
        constant = _constant(within, name)
        if constant is None and name in bound:
            constant = _constant(outside, bound[name])
        sides.append(constant if constant is not None else _index(outside, bound.get(name, name)))
    stated = re.search(r"direction=(\w\w)", root.attributes)
    match sides:
        case [str() as counter, int() | str() as limit] if stated:
            return int(counter), limit, stated[1]
        case [int() as limit, str() as counter] if stated:
            return int(counter), limit, stated[1]
    return None


def _constant(computation: Computation, name: str) -> int | None:
    for _ in range(20):
        found = computation.by_name.get(name)
        if found is None:
            return None
        if found.opcode == "constant":
            return int(found.arguments) if _DIGITS.fullmatch(found.arguments) else None
        if found.opcode not in _THROUGH or len(found.operands) != 1:
            return None
        [name] = found.operands
    return None


def _index(computation: Computation, name: str) -> str | None:
    """Return the element of its parameter that a value of a computation is, as decimal text."""
    for _ in range(20):
        found = computation.by_name.get(name)
        if found is None:
            return None
        if found.opcode == "get-tuple-element":
            stated = re.search(r"index=(\d{1,9})", found.attributes)
            return stated[1] if stated else None
        if found.opcode not in _THROUGH or len(found.operands) != 1:
            return None
        [name] = found.operands
    return None


def _element(computation: Computation, name: str, index: int) -> int | None:
    """The constant that a tuple has at an index."""
    found = computation.by_name.get(name)
    if found is None or found.opcode != "tuple" or index >= len(found.operands):
        return None
    return _constant(computation, found.operands[index])


def _unchanged(
    computation: Computation, loop: Instruction, body: Computation, index: int
) -> int | None:
    """Return the constant at an index of a loop's state, if the body passes it on unchanged."""
    root = body.root
    if root is None or root.opcode != "tuple" or index >= len(root.operands):
        return None
    if _index(body, root.operands[index]) != str(index):
        return None
    return _element(computation, loop.operands[0], index)


def _step(body: Computation, counter: int) -> int | None:
    """Return the increment of the counter per round."""
    root = body.root
    if root is None or root.opcode != "tuple" or counter >= len(root.operands):
        return None
    name = root.operands[counter]
    for _ in range(20):
        found = body.by_name.get(name)
        if found is None:
            return None
        if found.opcode in ("add", "subtract") and len(found.operands) == 2:
            step = _constant(body, found.operands[1])
            if step is None and found.opcode == "add":
                step = _constant(body, found.operands[0])
            return -step if step is not None and found.opcode == "subtract" else step
        if found.opcode not in _THROUGH or len(found.operands) != 1:
            return None
        [name] = found.operands
    return None
