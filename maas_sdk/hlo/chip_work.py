"""Work of one chip in one call of a compiled program: products and main-memory traffic.

The rule it keeps: work is read off the compiled program's text, instruction by instruction, each
counted as often as the loops around it run; so replicated work, recomputation and padding count,
because the chip does them.

An instruction (a fusion counts as one) reads its operands from main memory and writes its result
there, except what the compiler has placed in VMEM (``S(1)`` in the layout); where a fusion only
takes a slice of an operand, or only replaces one of its result, the slice counts.
Products are ``dot`` and ``convolution``: the TPU compiler writes batched products as convolutions
whose window meets each element once, so only positions of the window that meet data count (XLA's
HloCostAnalysis, HandleConvolution, does the same).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from maas_sdk.hlo.module import (
    Computation,
    HloModule,
    Instruction,
    array_shapes,
    tuple_elements,
)
from maas_sdk.hlo.trip_counts import runs

__all__ = ["FREE", "ChipWork", "chip_work", "operand_reads", "product_flops", "totals"]

# They move nothing: views, control, and what other lines count.
FREE: Final = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"),
    *("call", "after-all", "partition-id", "replica-id", "iota", "opt-barrier"),
}
# The same values in another shape, layout or type.
_RENAMES: Final = {"bitcast", "copy", "convert", "reshape", "transpose"}
# Copies beside the computation; ``-done`` only waits.
_BESIDE: Final = ("copy-start", "slice-start", "dynamic-slice-start", "async-start")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChipWork:
    """Equal instructions of a program, on one chip."""

    # Runs in one call of the program.
    times: int
    # Operations of one run; integer products apart, the matrix unit does them faster.
    flops: float
    int8_ops: float
    # Main memory read and written by one run.
    nbytes: int
    # Whether it runs beside the computation.
    beside: bool


def chip_work(module: HloModule) -> tuple[ChipWork, ...]:
    """Return all the work of a program on one chip.

    Raises:
        InputError: the text is no compiled program.
    """
    counts = runs(module)
    # Fusions and reductions are parts of the instruction that calls them.
    inner = {
        name
        for computation in module.computations.values()
        for instruction in computation.instructions
        if instruction.opcode not in ("while", "conditional", "call")
        for _, name in instruction.called
    }
    found: Counter[tuple[float, float, int, bool]] = Counter()
    for computation in module.computations.values():
        times, _ = counts[computation.name]
        if not times or computation.name in inner:
            continue
        for instruction in computation.instructions:
            opcode = instruction.opcode
            if opcode in FREE or opcode.endswith("-done"):
                continue
            if instruction.name in computation.prefetched:
                continue
            flops, int8_ops = _flops(module, computation, instruction)
            nbytes = _traffic(module, computation, instruction)
            if flops or int8_ops or nbytes:
                found[flops, int8_ops, nbytes, opcode in _BESIDE] += times
    return tuple(
        ChipWork(times=times, flops=flops, int8_ops=int8_ops, nbytes=nbytes, beside=beside)
        for (flops, int8_ops, nbytes, beside), times in found.items()
    )


def _flops(
    module: HloModule, computation: Computation, instruction: Instruction
) -> tuple[float, float]:
    """Operations of one run, floating point and integer."""
    if instruction.opcode in ("dot", "convolution"):
        ops = product_flops(computation, instruction)
        integer = _dtype(computation, instruction.operands[:1]).startswith(("s8", "u8", "s4", "u4"))
        return (0.0, ops) if integer else (ops, 0.0)
    flops, int8_ops = 0.0, 0.0
    if instruction.opcode in ("fusion", "async-start", "custom-call"):
        for _, name in instruction.called:
            for one in (
                module.computations[name].instructions if name in module.computations else ()
            ):
                a, b = _flops(module, module.computations[name], one)
                flops, int8_ops = flops + a, int8_ops + b
    return flops, int8_ops


def _dtype(computation: Computation, operands: Iterable[str]) -> str:
    for name in operands:
        found = computation.by_name.get(name)
        for shape in array_shapes(found.shape) if found else ():
            return shape.dtype
    return ""


def _dims(computation: Computation, name: str) -> tuple[int, ...] | None:
    found = computation.by_name.get(name)
    shapes = array_shapes(found.shape) if found else ()
    return shapes[0].dims if len(shapes) == 1 else None


def product_flops(computation: Computation, instruction: Instruction) -> float:
    """Operations of a ``dot`` or ``convolution``; 0 when its line cannot be read."""
    results = array_shapes(instruction.shape)
    if len(instruction.operands) < 2 or not results:
        return 0.0
    left, right = (_dims(computation, name) for name in instruction.operands[:2])
    result = results[0].dims
    if left is None or right is None:
        return 0.0
    if instruction.opcode == "dot":
        stated = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        contracted = [int(d) for d in re.findall(r"\d+", stated[1])] if stated else []
        if any(d >= len(left) for d in contracted):
            return 0.0
        return 2.0 * math.prod(result) * math.prod(left[d] for d in contracted)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if not labels or not all(
        len(text) == len(dims)
        for text, dims in zip(labels.groups(), (left, right, result), strict=True)
    ):
        return 0.0
    window = _window(instruction.attributes)
    inputs, kernel, outputs = (
        dict(zip(text, dims, strict=True))
        for text, dims in zip(labels.groups(), (left, right, result), strict=True)
    )
    total: float = 2.0 * outputs.get("b", 1) * outputs.get("f", 1) * kernel.get("i", 1)
    for label in outputs:
        if label.isdigit() and label in inputs and label in kernel:
            at = int(label)
            stride, low, dilate_input, dilate_kernel = (
                values[at] if at < len(values) else default
                for values, default in zip(window, (1, 0, 1, 1), strict=True)
            )
            total *= _meetings(
                inputs[label],
                kernel[label],
                outputs[label],
                stride,
                low,
                dilate_input,
                dilate_kernel,
            )
    return total


def _window(attributes: str) -> tuple[list[int], list[int], list[int], list[int]]:
    """Per dimension: stride, padding in front, dilation of the input, dilation of the kernel."""
    stated = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(re.findall(r"(\w+)=(\S+)", stated[1])) if stated else {}

    def numbers(key: str) -> list[int]:
        # Of a padding "31_0" the first number is the one in front; it may be negative.
        return [int(v) for v in re.findall(r"(?:^|x)(-?\d{1,9})", fields.get(key, ""))]

    return numbers("stride"), numbers("pad"), numbers("lhs_dilate"), numbers("rhs_dilate")


@lru_cache(maxsize=4096)
def _meetings(
    size: int,
    window: int,
    result: int,
    stride: int,
    low: int,
    dilate_input: int,
    dilate_kernel: int,
) -> int:
    """Count pairs of output and window positions that meet an element of the input."""
    last = (size - 1) * dilate_input
    found = 0
    for position in range(min(window, 1 << 16)):
        # Output o reads the padded input at o · stride + position · dilate_kernel - low.
        offset = position * dilate_kernel - low
        first = max(0, -(offset // stride) if offset < 0 else 0)
        end = min(result - 1, (last - offset) // stride)
        if end < first:
            continue
        if dilate_input == 1:
            found += end - first + 1
        else:
            period = dilate_input // math.gcd(stride, dilate_input)
            hits = [
                o
                for o in range(first, min(end, first + period - 1) + 1)
                if (o * stride + offset) % dilate_input == 0
            ]
            found += sum((end - o) // period + 1 for o in hits)
    return found


def _traffic(module: HloModule, computation: Computation, instruction: Instruction) -> int:
    """Return bytes of main memory that one run reads and writes."""
    if instruction.opcode in _BESIDE:
        # (operands, result, …): what it copies is the result, read in one place, written in other.
        shapes = array_shapes(instruction.shape)
        moved = min((s.nbytes for s in shapes if s.dims), default=0)
        sides = [s for s in shapes if s.dims][:2]
        return sum(moved for s in sides if s.memory_space == 0)
    if instruction.opcode == "dynamic-update-slice":
        update = _operand(computation, instruction.operands[1:2])
        return 2 * update
    if instruction.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * _in_memory(instruction.shape)
    reads = sum(operand_reads(module, computation, instruction))
    return reads + _written(_called(module, instruction), instruction)


def operand_reads(
    module: HloModule, computation: Computation, instruction: Instruction
) -> tuple[int, ...]:
    """Return bytes of main memory that one run reads of each operand."""
    body = _called(module, instruction)
    wholes = [_operand(computation, [name]) for name in instruction.operands]
    if body is None:
        return tuple(wholes)
    return tuple(_read_of(module, body, index, whole) for index, whole in enumerate(wholes))


def _written(body: Computation | None, instruction: Instruction) -> int:
    """Return bytes written; of a fusion's result only those that the fusion itself makes."""
    root = None if body is None else body.root
    if body is None or root is None:
        return _in_memory(instruction.shape)
    whole = root.opcode != "tuple"
    shapes = (instruction.shape,) if whole else tuple_elements(instruction.shape)
    made = (root.name,) if whole else root.operands
    total = 0
    for shape, name in zip(shapes, made, strict=False):
        source = body.by_name.get(name)
        if source is None or (not whole and _carried(source)):
            continue
        nbytes = _in_memory(shape)
        if source.opcode == "dynamic-update-slice":
            replaced = body.by_name.get(next(iter(source.operands[1:2]), ""))
            if replaced is not None:
                nbytes = min(nbytes, sum(s.nbytes for s in array_shapes(replaced.shape)))
        total += nbytes
    return total


def _carried(instruction: Instruction) -> bool:
    """Return True for a parameter, or the buffers of a collective that runs in parallel."""
    return (
        instruction.opcode == "parameter"
        or 'chain_id="' in instruction.attributes
        or 'custom_call_target="AsyncCollective' in instruction.attributes
    )


def _read_of(module: HloModule, body: Computation, index: int, whole: int) -> int:
    """Return bytes a fusion reads of its operand: only slices, when it uses nothing else of it."""
    given = {name for name, number in body.parameters.items() if number == index}
    names = set(given)
    total = 0
    for instruction in body.instructions:
        taken = names & set(instruction.operands)
        if not taken or _carried(instruction):
            continue
        if instruction.opcode == "tuple" and taken <= given:
            continue  # Handed on as it came.
        if _renames(module, instruction):
            # Inside a fusion nothing is made until a slice of it is asked for.
            names.add(instruction.name)
            if instruction.opcode == "bitcast" and taken <= given:
                given.add(instruction.name)
        elif instruction.opcode in ("dynamic-slice", "slice", "gather"):
            total += sum(s.nbytes for s in array_shapes(instruction.shape))
        elif instruction.opcode == "dynamic-update-slice" and instruction.operands[0] in taken:
            pass  # In place: the rest of it is neither read nor written.
        elif inside := _called(module, instruction):
            places = [at for at, name in enumerate(instruction.operands) if name in taken]
            total += sum(_read_of(module, inside, at, whole) for at in places)
        else:
            return whole
    root = body.root
    return whole if root is not None and root.name in names - given else min(total, whole)


def _renames(module: HloModule, instruction: Instruction) -> bool:
    """Return True when an instruction only changes its operand's shape, layout or type."""
    if instruction.opcode in _RENAMES:
        return True
    inside = _called(module, instruction)
    return inside is not None and all(
        one.opcode == "parameter" or one.opcode in _RENAMES for one in inside.instructions
    )


def _called(module: HloModule, instruction: Instruction) -> Computation | None:
    """The body of a fusion."""
    if instruction.opcode != "fusion":
        return None
    return module.computations.get(next((name for _, name in instruction.called), ""))


def _operand(computation: Computation, names: Iterable[str]) -> int:
    return sum(
        _in_memory(found.shape) for name in names if (found := computation.by_name.get(name))
    )


def _in_memory(shape: str) -> int:
    return sum(s.nbytes for s in array_shapes(shape) if s.memory_space == 0)


def totals(work: Iterable[ChipWork]) -> Mapping[str, float]:
    """Operations and bytes of one call of the program."""
    listed = list(work)
    return {
        "flops": math.fsum(w.times * w.flops for w in listed),
        "int8_ops": math.fsum(w.times * w.int8_ops for w in listed),
        "nbytes": math.fsum(w.times * w.nbytes for w in listed),
    }
