"""Uses of each weight by a compiled program: products, copies, reads of main memory.

That a program was written with int8 products does not say that the compiler kept them: it may widen
a weight first, keep a float copy of it, or read it several times. The text tells.

The rule it keeps: a weight is followed from its parameter through all operations that pass it on
(copies, slices, layouts, loops, conversions, element-wise arithmetic) until a product or a lookup
takes them; names that the compiler writes beside instructions are not relied on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from maas_sdk.hlo.chip_work import FREE, operand_reads, product_flops
from maas_sdk.hlo.module import (
    ArrayShape,
    Computation,
    HloModule,
    Instruction,
    array_shapes,
    tuple_elements,
)
from maas_sdk.hlo.trip_counts import trip_count

__all__ = ["Copy", "Product", "WeightTrace", "trace_weights"]

# Names of weights that a value is made of; of a tuple, one for each element.
_Value = frozenset[str] | tuple["_Value", ...]
_NOTHING: Final[frozenset[str]] = frozenset()

_PRODUCTS: Final = {"dot", "convolution"}
# The same numbers, some of them, or several weights' side by side.
_MOVES: Final = {
    *("bitcast", "copy", "reshape", "transpose", "slice", "dynamic-slice", "opt-barrier", "pad"),
    *("concatenate", "copy-start", "copy-done", "slice-start", "slice-done", "async-done"),
    *("dynamic-slice-start", "dynamic-slice-done", "async-update", "dynamic-update-slice"),
}
# How the compiler calls slices that it has fetched next to each other.
_CONCAT: Final = 'custom_call_target="ConcatBitcast"'
_STARTS: Final = {"copy-start", "slice-start", "dynamic-slice-start", "async-start"}
_SLICES: Final = {"slice", "dynamic-slice", "slice-start", "dynamic-slice-start"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """A product that takes a weight."""

    # The instruction's name in the text.
    name: str
    # Dtypes as HLO writes them: "s8", "bf16".
    left: str
    right: str
    result: str
    # Operations of one run, and runs in one call of the program.
    flops: float
    times: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """One more whole copy of a weight's values."""

    name: str
    dtype: str
    nbytes: int
    # "memory": main memory; "scratchpad": VMEM; "fusion": on the way into an instruction.
    place: str


@dataclass(kw_only=True)
class WeightTrace:
    """Uses of one weight in one call of the program."""

    name: str
    # Elements of one layer, and bytes of the whole.
    elements: int
    nbytes: int
    products: list[Product] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    # Row lookups.
    lookups: int = 0
    # Bytes of main memory that are read of it and of copies of it.
    read_bytes: int = 0


def trace_weights(
    module: HloModule, parameters: Mapping[int, str], elements: Mapping[str, int]
) -> dict[str, WeightTrace]:
    """Follow weights through a program.

    Args:
        module: the compiled program.
        parameters: number of a parameter of the program → name of the weight that it is a part of.
        elements: name → elements of the weight, of one layer where it is a stack of them.
    """
    entry = module.computations[module.entry]
    traces = {
        name: WeightTrace(name=name, elements=elements[name], nbytes=0)
        for name in parameters.values()
    }
    arguments: dict[int, _Value] = {}
    for parameter, number in entry.parameters.items():
        if number in parameters:
            arguments[number] = frozenset([parameters[number]])
            shapes = array_shapes(entry.by_name[parameter].shape)
            traces[parameters[number]].nbytes += sum(shape.nbytes for shape in shapes)
    _Walk(module, traces).run(entry, arguments, times=1, fused=False)
    return traces


class _Walk:
    """One pass through a program."""

    def __init__(self, module: HloModule, traces: Mapping[str, WeightTrace]) -> None:
        self._module = module
        self._traces = traces

    def run(
        self, computation: Computation, arguments: Mapping[int, _Value], *, times: int, fused: bool
    ) -> _Value:
        """Return the value of a computation for arguments by number."""
        values: dict[str, _Value] = {}
        for one in computation.instructions:
            if one.name in computation.prefetched:
                continue
            if one.opcode == "parameter":
                number = computation.parameters.get(one.name, -1)
                values[one.name] = arguments.get(number, _NOTHING)
                continue
            given = [values.get(name, _NOTHING) for name in one.operands]
            if not any(_names(value) for value in given):
                continue
            if not fused and one.opcode not in FREE and not one.opcode.endswith("-done"):
                self._read(computation, one, given, times)
            values[one.name] = self._value(computation, one, given, times, fused)
            self._written(one, values[one.name], fused)
        root = computation.root
        return _NOTHING if root is None else values.get(root.name, _NOTHING)

    def _value(
        self,
        computation: Computation,
        one: Instruction,
        given: Sequence[_Value],
        times: int,
        fused: bool,
    ) -> _Value:
        """Return the weights in an instruction's result; notes products and lookups."""
        names = _names(given)
        if one.opcode in _PRODUCTS:
            self._product(computation, one, names, times)
            return _NOTHING
        if one.opcode == "tuple":
            return tuple(given)
        if one.opcode == "get-tuple-element":
            [value] = given
            index = int(one.attributes.partition("index=")[2].partition(",")[0])
            return value[index] if isinstance(value, tuple) else value
        if one.opcode == "while":
            return self._loop(computation, one, given[0], times)
        if one.opcode == "gather":
            for name in _names(given[:1]):
                self._traces[name].lookups += times
            return _NOTHING
        called = [name for _, name in one.called if name in self._module.computations]
        if one.opcode in ("fusion", "call", "conditional", "async-start") and called:
            inside = fused or one.opcode == "fusion"
            # A conditional's first operand says which branch gets which of the others.
            found = [
                self.run(
                    self._module.computations[name],
                    {0: given[at + 1]} if one.opcode == "conditional" else dict(enumerate(given)),
                    times=times,
                    fused=inside,
                )
                for at, name in enumerate(called)
            ]
            return found[0] if len(found) == 1 else _names(found)
        if one.opcode in _MOVES or _CONCAT in one.attributes:
            if one.opcode in _SLICES:
                self._sliced(one, names, times)
            return names
        # Arithmetic, element by element; anything else makes numbers of its own.
        size = _elements(one.shape)
        return frozenset().union(
            *(
                _names(value)
                for value, operand in zip(given, one.operands, strict=True)
                if _elements(computation.by_name[operand].shape) == size
            )
        )

    def _loop(
        self, computation: Computation, one: Instruction, state: _Value, times: int
    ) -> _Value:
        body = self._module.computations.get(dict(one.called).get("body", ""))
        if body is not None:
            turns = trip_count(self._module, computation, one)
            self.run(body, {0: state}, times=times * (turns or 1), fused=False)
        return state

    def _product(
        self, computation: Computation, one: Instruction, names: frozenset[str], times: int
    ) -> None:
        left, right = (
            next((s.dtype for s in array_shapes(computation.by_name[name].shape)), "")
            for name in one.operands[:2]
        )
        found = Product(
            name=one.name,
            left=left,
            right=right,
            result=next((s.dtype for s in array_shapes(one.shape)), ""),
            flops=product_flops(computation, one),
            times=times,
        )
        for name in names:
            self._traces[name].products.append(found)

    def _sliced(self, one: Instruction, names: frozenset[str], times: int) -> None:
        """Treat slices as a lookup of single rows, which XLA writes so where there are few."""
        for name in names:
            trace = self._traces[name]
            if _elements(_result(one)) * 32 < trace.elements:
                trace.lookups += times

    def _read(
        self, computation: Computation, one: Instruction, given: Sequence[_Value], times: int
    ) -> None:
        sizes: Sequence[int] = operand_reads(self._module, computation, one)
        if one.opcode in _SLICES or one.opcode == "gather":
            moved = sum(shape.nbytes for shape in array_shapes(_result(one)))
            sizes = [min(size, moved) for size in sizes]
        for value, nbytes in zip(given, sizes, strict=True):
            for name in _names(value):
                self._traces[name].read_bytes += times * nbytes

    def _written(self, one: Instruction, value: _Value, fused: bool) -> None:
        """Note a weight that is written out whole."""
        if one.opcode in FREE or one.opcode.endswith("-done") or _CONCAT in one.attributes:
            return
        # In a fusion only what changes the layout is worth a word.
        if fused and one.opcode not in ("copy", "transpose"):
            return
        for shape, names in _arrays(_result(one), value):
            for name in names:
                if math.prod(shape.dims) >= self._traces[name].elements:
                    place = "scratchpad" if shape.memory_space else "memory"
                    if place == "scratchpad" and one.opcode in _STARTS:
                        continue  # Fetched, as it is.
                    self._traces[name].copies.append(
                        Copy(
                            name=one.name,
                            dtype=shape.dtype,
                            nbytes=shape.nbytes,
                            place="fusion" if fused else place,
                        )
                    )


def _names(value: _Value | Sequence[_Value]) -> frozenset[str]:
    """All weights in a value."""
    if isinstance(value, frozenset):
        return value
    return frozenset().union(*(_names(one) for one in value))


def _elements(shape: str) -> int:
    return sum(math.prod(one.dims) for one in array_shapes(shape))


def _result(one: Instruction) -> str:
    """Return the result's shape; that of an asynchronous instruction also names its operands."""
    if one.opcode in _STARTS:
        elements = tuple_elements(one.shape)
        # (result, operand, context), or ((operands), result, context).
        return elements[0 if one.opcode == "copy-start" else 1] if len(elements) > 1 else one.shape
    return one.shape


def _arrays(shape: str, value: _Value) -> Iterator[tuple[ArrayShape, frozenset[str]]]:
    """Yield arrays of a result, each with the weights that it is made of."""
    if isinstance(value, tuple):
        for part, inner in zip(tuple_elements(shape), value, strict=False):
            yield from _arrays(part, inner)
        return
    for one in array_shapes(shape):
        yield one, value
