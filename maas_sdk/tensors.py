"""Tensors on both sides of a contract: dtype names, specs, and arrays as bytes.

A tensor outside the process is three things: a dtype **name**, a shape, and its elements as raw
little-endian bytes in C order. Dtypes narrower than a byte are packed: element 0 sits in the lowest
bits of byte 0, rows are not padded, the unused high bits of the last byte are zero.

numpy names the common dtypes; ``ml_dtypes`` names bfloat16, the float8 family and the rest. It is
imported only when one of its names is met, so a client that speaks float32 never loads it.

Dimension letters: B rows of a batch. A spec's first dimension is ``None`` where it is B.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from maas_sdk.errors import InputError

__all__ = [
    "BITS",
    "Array",
    "Signature",
    "TensorSpec",
    "array_from_bytes",
    "array_to_bytes",
    "check_names",
    "dtype_from_name",
    "dtype_name",
    "packed_nbytes",
]

Array = np.ndarray[Any, np.dtype[Any]]

# Bits per element on the wire and on disk, by dtype name. This table is the list of what travels.
BITS: Final[dict[str, int]] = {
    "bool": 8,
    "int8": 8,
    "int16": 16,
    "int32": 32,
    "int64": 64,
    "uint8": 8,
    "uint16": 16,
    "uint32": 32,
    "uint64": 64,
    "float16": 16,
    "float32": 32,
    "float64": 64,
    "complex64": 64,
    "complex128": 128,
    # ml_dtypes
    "bfloat16": 16,
    "float8_e3m4": 8,
    "float8_e4m3": 8,
    "float8_e4m3b11fnuz": 8,
    "float8_e4m3fn": 8,
    "float8_e4m3fnuz": 8,
    "float8_e5m2": 8,
    "float8_e5m2fnuz": 8,
    "float8_e8m0fnu": 8,
    "float6_e2m3fn": 6,
    "float6_e3m2fn": 6,
    "float4_e2m1fn": 4,
    "int1": 1,
    "int2": 2,
    "int4": 4,
    "uint1": 1,
    "uint2": 2,
    "uint4": 4,
    "bcomplex32": 32,
    "complex32": 32,
}

# numpy builds these in; every other name of BITS is ml_dtypes'.
_NUMPY_NAMES: Final = frozenset(list(BITS)[: list(BITS).index("bfloat16")])


@lru_cache(maxsize=len(BITS))
def dtype_from_name(name: str) -> np.dtype[Any]:
    """Return the little-endian dtype that ``name`` stands for.

    Raises:
        InputError: the name is not in ``BITS``, or the installed ml_dtypes is too old to know it.
    """
    if name not in BITS:
        raise InputError(f"unknown dtype {name!r}; known are {', '.join(sorted(BITS))}", dtype=name)
    if name in _NUMPY_NAMES:
        # By its letters, which gives numpy's own dtype where that is little-endian; a dtype made by
        # newbyteorder is equal to it, but takes the slow paths of whoever asks for a built-in one.
        return np.dtype(np.dtype(name).newbyteorder("<").str)
    try:
        import ml_dtypes
    except ImportError as error:
        raise InputError(
            f"dtype {name} needs the package ml_dtypes: pip install ml_dtypes",
            dtype=name,
        ) from error
    scalar = getattr(ml_dtypes, name, None)
    if scalar is None:
        raise InputError(
            f"dtype {name} is unknown to ml_dtypes {ml_dtypes.__version__}: "
            "pip install --upgrade ml_dtypes",
            dtype=name,
        )
    dtype: np.dtype[Any] = np.dtype(scalar)
    return dtype


# Cached, since numpy works a dtype's name out anew each time that it is asked.
@lru_cache(maxsize=4 * len(BITS))
def dtype_name(dtype: np.dtype[Any] | type) -> str:
    """Return the name of a dtype in bundles and on the wire.

    Raises:
        InputError: objects, strings, dates and structured dtypes have none.
    """
    name = np.dtype(dtype).name
    if name not in BITS:
        raise InputError(
            f"an array of dtype {np.dtype(dtype)} cannot travel: expected one of "
            f"{', '.join(sorted(BITS))}; convert it first, for instance with .astype('float32')",
            dtype=str(dtype),
        )
    return name


def packed_nbytes(name: str, shape: Iterable[int]) -> int:
    """Return a tensor's bytes outside the process. Raises ``InputError`` for unknown dtypes."""
    bits = BITS.get(name)
    if bits is None:
        dtype_from_name(name)
        raise AssertionError("dtype_from_name refuses every name that BITS lacks")
    return (math.prod(shape) * bits + 7) // 8


def array_to_bytes(array: Array) -> memoryview:
    """Convert an array to bytes: little-endian, C order, narrow dtypes packed.

    A view of the array's own memory where that already is the layout, a copy otherwise.

    Args:
        array: any shape, a dtype of ``BITS``.
    """
    name = dtype_name(array.dtype)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    array = np.ascontiguousarray(array)
    if BITS[name] < 8:
        return _pack(array, BITS[name]).data
    return array.reshape(-1).view(np.uint8).data


def array_from_bytes(
    name: str, shape: tuple[int, ...], data: bytes | bytearray | memoryview
) -> Array:
    """Return the array stored in ``data``: a view of it, except for packed dtypes.

    Args:
        name: dtype name.
        shape: dimensions, each ≥ 0.
        data: exactly ``packed_nbytes(name, shape)`` bytes.

    Raises:
        InputError: unknown dtype, a negative dimension, or another number of bytes.
    """
    dtype = dtype_from_name(name)
    if any(size < 0 for size in shape):
        raise InputError(f"shape {list(shape)} has a negative dimension", shape=shape)
    expected = packed_nbytes(name, shape)
    found = memoryview(data).nbytes
    if found != expected:
        raise InputError(
            f"a tensor of dtype {name} and shape {list(shape)} takes {expected} bytes, "
            f"but {found} came",
            expected_nbytes=expected,
            found_nbytes=found,
        )
    raw = np.frombuffer(data, np.uint8)
    if BITS[name] < 8:
        return _unpack(raw, BITS[name], math.prod(shape)).view(dtype).reshape(shape)
    return raw.view(dtype).reshape(shape)


# Elements that are packed at a time, a multiple of 8: a bit takes a byte on the way.
_CHUNK: Final = 2**16


def _pack(array: Array, bits: int) -> Array:
    """Pack [N] elements of one byte each → [ceil(N·bits/8)] bytes, element 0 in the lowest bits."""
    codes = array.reshape(-1).view(np.uint8)
    packed = np.empty((codes.size * bits + 7) // 8, np.uint8)
    for start in range(0, codes.size, _CHUNK):
        part = codes[start : start + _CHUNK]
        planes = np.unpackbits(part[:, None], axis=1, bitorder="little")[:, :bits]
        begin, nbytes = start * bits // 8, (part.size * bits + 7) // 8
        packed[begin : begin + nbytes] = np.packbits(planes.reshape(-1), bitorder="little")
    return packed


def _unpack(packed: Array, bits: int, count: int) -> Array:
    """Invert ``_pack``: [ceil(N·bits/8)] bytes → [N] codes, one byte each.

    The high bits stay zero: ml_dtypes writes int4 and friends so and ignores them when it reads.
    """
    codes = np.empty(count, np.uint8)
    for start in range(0, count, _CHUNK):
        part = codes[start : start + _CHUNK]
        planes = np.unpackbits(
            packed[start * bits // 8 :][: (part.size * bits + 7) // 8],
            count=part.size * bits,
            bitorder="little",
        )
        part[:] = np.packbits(planes.reshape(-1, bits), axis=1, bitorder="little")[:, 0]
    return codes


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """Dtype and shape of one named tensor of a program."""

    # A name of BITS.
    dtype: str
    # Sizes; None as the first one means B, any number of rows.
    shape: tuple[int | None, ...]

    def __post_init__(self) -> None:
        if self.dtype not in BITS:
            dtype_from_name(self.dtype)
        for axis, size in enumerate(self.shape):
            if (size is None and axis > 0) or (size is not None and size < 0):
                raise InputError(
                    f"shape {list(self.shape)}: dimension {axis} must be a size ≥ 0 "
                    "(only dimension 0 may be open)"
                )

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join('B' if d is None else str(d) for d in self.shape)}]"

    def nbytes(self, rows: int) -> int:
        """Return bytes of a tensor of this spec outside the process with B = ``rows``."""
        return packed_nbytes(self.dtype, (rows if d is None else d for d in self.shape))


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """Inputs and outputs of a program, by name, in sorted order of names.

    The sorted order is also the order of the compiled program's arguments and results.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", dict(sorted(self.inputs.items())))
        object.__setattr__(self, "outputs", dict(sorted(self.outputs.items())))

    def check(self, inputs: Mapping[str, Array]) -> int:
        """Check a call's inputs and return B, their number of rows.

        Raises:
            InputError: a name is missing or unknown; a dtype, rank or dimension differs; the
                inputs disagree about B. The message names the input, what the program expects and
                what came.
        """
        check_names(self.inputs, inputs)
        rows: int | None = None
        for name, spec in self.inputs.items():
            found = _check_one(name, spec, inputs[name])
            if rows is not None and found is not None and found != rows:
                raise InputError(
                    f"inputs disagree about the batch: {name!r} has {found} rows, others {rows}"
                )
            rows = found if rows is None else rows
        return 1 if rows is None else rows


def check_names(
    expected: Mapping[str, TensorSpec], found: Mapping[str, object], *, where: str = ""
) -> None:
    """Raise ``InputError`` unless ``found`` has exactly the inputs that are expected."""
    if found.keys() == expected.keys():
        return
    missing = sorted(expected.keys() - found.keys())
    unknown = sorted(found.keys() - expected.keys())
    raise InputError(
        f"{where}expected inputs {sorted(expected)}, got {sorted(found)}"
        + (f"; missing: {missing}" if missing else "")
        + (f"; unknown: {unknown}" if unknown else ""),
        missing=missing,
        unknown=unknown,
    )


def _check_one(name: str, spec: TensorSpec, array: Array) -> int | None:
    """Check one array against its spec; return B, or None where no dimension is open."""
    # This runs for every call, so the dtypes are compared themselves: numpy spells the name of one
    # anew each time, which takes longer than all the rest. Names decide for other byte orders.
    dtype, shape = array.dtype, array.shape
    if dtype != dtype_from_name(spec.dtype) and dtype.name != spec.dtype:
        raise InputError(
            f"input {name!r}: expected dtype {spec.dtype}, got {dtype}; "
            f"convert it with .astype({spec.dtype!r})",
            input=name,
        )
    if len(shape) != len(spec.shape):
        hint = ""
        if len(shape) == len(spec.shape) - 1 and spec.shape[:1] == (None,):
            hint = "; a single row needs a batch dimension: x[None]"
        raise InputError(
            f"input {name!r}: expected {len(spec.shape)} dimensions, {spec}, "
            f"got {dtype}{list(shape)}{hint}",
            input=name,
        )
    for axis, (expected, found) in enumerate(zip(spec.shape, shape, strict=True)):
        if expected is not None and expected != found:
            raise InputError(
                f"input {name!r}: dimension {axis} must be {expected}, is {found}: "
                f"expected {spec}, got {dtype}{list(shape)}",
                input=name,
                axis=axis,
            )
    return shape[0] if spec.shape[:1] == (None,) else None
