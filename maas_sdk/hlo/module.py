"""A compiled program's text, parsed: computations, instructions, shapes.

XLA prints a program as computations, one instruction per line; a loop, a fusion or a call names the
computation that it runs. ``compiled.as_text()`` of jax is such a text, of the CPU and of the TPU
compiler alike.

The rule it keeps: nothing is run and nothing of jax is needed; a line that is no instruction is
passed over, so text of a newer compiler does no harm.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from maas_sdk.errors import InputError

__all__ = [
    "ArrayShape",
    "Computation",
    "HloModule",
    "Instruction",
    "array_shapes",
    "parse_module",
    "tuple_elements",
]

# https://openxla.org/xla/shapes: the bits of one element. Tokens and opaque values hold no array.
_BITS: Final = re.compile(r"(?:pred|[suf]|bf|c)(\d+)?")
_SHAPE: Final = re.compile(r"\b(pred|token|opaque|bf16|[sufc]\d+\w*)\[([\d,<=? ]*)\](\{[^}]*\})?")
_HEADER: Final = re.compile(r"^\s*(ENTRY\s+)?%?([\w.\-]+)\s+\(.*->.*\{\s*$")
_START: Final = re.compile(r"^\s+(ROOT\s+)?%?([\w.\-]+)\s+=\s+")
_OPCODE: Final = re.compile(r"\s*([a-z][\w\-]*)\(")
_CALLED: Final = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation|branch_computations"
    r"|called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_COMMENT: Final = re.compile(r"/\*.*?\*/")
_SPACE: Final = re.compile(r"S\((\d+)\)")


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayShape:
    """One array of a shape, on one device."""

    dtype: str
    dims: tuple[int, ...]
    # 0 is the device's main memory; on TPU 1 is VMEM, the scratchpad beside the compute units.
    memory_space: int

    @property
    def nbytes(self) -> int:
        """Without the padding that a layout adds; four-bit elements are packed."""
        return (math.prod(self.dims) * _bits(self.dtype) + 7) // 8


@dataclass(frozen=True)
class Instruction:
    """One line: ``name = shape opcode(arguments), attributes``."""

    name: str
    opcode: str
    shape: str
    arguments: str
    attributes: str
    is_root: bool

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """Names of the instruction's operands."""
        if self.opcode in ("constant", "parameter"):
            return ()
        words = (part.split() for part in _split(_COMMENT.sub("", self.arguments)))
        return tuple(word[-1].lstrip("%") for word in words if word)

    @property
    def called(self) -> Iterator[tuple[str, str]]:
        """(attribute, computation's name) for each computation that it runs."""
        for key, names in _CALLED.findall(self.attributes):
            for name in names.strip("{}").split(","):
                if name.strip():
                    yield key, name.strip().lstrip("%")


@dataclass(frozen=True, kw_only=True)
class Computation:
    """A named list of instructions; the last one that is ``ROOT`` is its result."""

    name: str
    instructions: tuple[Instruction, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Instruction]:
        """The instructions by name."""
        return {instruction.name: instruction for instruction in self.instructions}

    @property
    def root(self) -> Instruction | None:
        """The instruction whose value it returns."""
        roots = [i for i in self.instructions if i.is_root] or list(self.instructions[-1:])
        return roots[-1] if roots else None

    @cached_property
    def parameters(self) -> Mapping[str, int]:
        """Parameter name → its number."""
        return {
            i.name: int(i.arguments)
            for i in self.instructions
            if i.opcode == "parameter" and i.arguments.isdecimal()
        }

    @cached_property
    def prefetched(self) -> frozenset[str]:
        """Names of copies for the next call: nothing here uses their results.

        The TPU compiler writes such a copy (``cross_program_prefetch``) at the start as well; each
        call runs one of the two.
        """
        used = {name for one in self.instructions for name in one.operands}
        return frozenset(
            one.operands[0]
            for one in self.instructions
            if one.opcode == "copy-done" and one.operands and not one.is_root
            if one.name not in used
        )


@dataclass(frozen=True, kw_only=True)
class HloModule:
    """A whole program."""

    computations: Mapping[str, Computation]
    entry: str
    # Devices that run it together.
    devices: int


def parse_module(text: str) -> HloModule:
    """Read ``compiled.as_text()``.

    Raises:
        InputError: the text has no ENTRY computation: it is no HLO, or it was cut.
    """
    computations: dict[str, Computation] = {}
    entry: str | None = None
    name: str | None = None
    found: list[Instruction] = []
    devices = 1
    for line in text.splitlines():
        if line.startswith("HloModule"):
            for key in ("num_partitions", "replica_count"):
                stated = re.search(rf"\b{key}=(\d{{1,9}})", line)
                devices *= int(stated[1]) if stated else 1
        elif name is None:
            if header := _HEADER.match(line):
                name = header[2]
                entry = name if header[1] else entry
        elif line.strip() == "}":
            computations[name] = Computation(name=name, instructions=tuple(found))
            name, found = None, []
        elif instruction := _instruction(line):
            found.append(instruction)
    if entry is None or entry not in computations:
        raise InputError(
            "the text is no compiled program: it has no whole ENTRY computation; expected what "
            "jax.jit(f).lower(…).compile().as_text() returns"
        )
    return HloModule(computations=computations, entry=entry, devices=max(1, devices))


def _instruction(line: str) -> Instruction | None:
    start = _START.match(line)
    if not start:
        return None
    at = start.end()
    end = _closing(line, at) + 1 if line[at : at + 1] == "(" else line.find(" ", at)
    opcode = _OPCODE.match(line, end) if end > at else None
    if opcode is None:
        return None
    close = _closing(line, opcode.end() - 1)
    if close < 0:
        return None
    return Instruction(
        name=start[2],
        opcode=opcode[1],
        shape=line[at:end],
        arguments=line[opcode.end() : close],
        attributes=line[close + 1 :],
        is_root=bool(start[1]),
    )


def _closing(text: str, at: int) -> int:
    """Return the index of the parenthesis that closes the one at ``at``; -1 when none does."""
    depth = 0
    for mark in re.compile(r"[()]").finditer(text, at):
        depth += 1 if mark[0] == "(" else -1
        if not depth:
            return mark.start()
    return -1


def _split(text: str) -> list[str]:
    """Split at the commas outside brackets."""
    parts, depth, start = [], 0, 0
    for mark in re.finditer(r"[(){}\[\],]", text):
        if mark[0] in "({[":
            depth += 1
        elif mark[0] in ")}]":
            depth -= 1
        elif mark[0] == "," and depth == 0:
            parts.append(text[start : mark.start()])
            start = mark.end()
    return [*parts, text[start:]]


def tuple_elements(shape: str) -> tuple[str, ...]:
    """The outermost elements of a tuple's shape; of anything else, itself."""
    if not shape.startswith("("):
        return (shape,)
    return tuple(part.strip() for part in _split(_COMMENT.sub("", shape[1:-1])))


def array_shapes(shape: str) -> tuple[ArrayShape, ...]:
    """All arrays in a shape, tuples flattened; ``f32[8,<=4]{1,0:T(8,128)S(1)}`` → one."""
    found = []
    for dtype, dims, layout in _SHAPE.findall(shape):
        if dtype not in ("token", "opaque"):
            space = _SPACE.search(layout)
            found.append(
                ArrayShape(
                    dtype=dtype,
                    dims=tuple(int(d) for d in re.findall(r"\d+", dims)),
                    memory_space=int(space[1]) if space else 0,
                )
            )
    return tuple(found)


def _bits(dtype: str) -> int:
    match = _BITS.match(dtype)
    # A pred takes a byte; complex types name the bits of both halves.
    return int(match[1]) if match and match[1] else 8
