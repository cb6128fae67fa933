"""The safetensors format as bytes: headers written and headers checked. Nothing here does I/O.

The format is that of the specification: a little-endian u64 with the header's length, the header (a
JSON object: tensor name → dtype, shape, begin and end in the data), then the data without holes.
Two liberties that the specification leaves are used so that a mapped file can be handed to the
runtime as it is:

- the header is padded with spaces until the data starts at a multiple of 64 bytes;
- tensors whose size is a multiple of 64 bytes come first, so that all of them start at one; the
  others follow, by falling size of their elements.

Dtypes that safetensors has no name for (int4, float8_e3m4, …) are stored as U8, in their travelling
form (see ``tensors.py``); the metadata key ``maas_sdk.logical`` has their dtype and shape.

The rule on reading: the header is proven against the size of the file, whole, before any of it
is believed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from maas_sdk.bundle.files import strict_json
from maas_sdk.errors import ConfigError, CorruptError, InputError
from maas_sdk.tensors import BITS, Array, dtype_name, packed_nbytes

__all__ = [
    "ALIGNMENT",
    "DTYPES",
    "MAX_HEADER_BYTES",
    "Spec",
    "TensorSlot",
    "corrupt",
    "make_header",
    "parse_header",
]

# What XLA's CPU client wants of a buffer that it shall use in place.
ALIGNMENT: Final = 64
# The reference implementation's bound.
MAX_HEADER_BYTES: Final = 100_000_000

# safetensors name → ours; what is not here travels as U8.
DTYPES: Final[dict[str, str]] = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F6_E2M3": "float6_e2m3fn",
    "F6_E3M2": "float6_e3m2fn",
    "F4": "float4_e2m1fn",
}
_SPEC_NAMES: Final = {ours: theirs for theirs, ours in DTYPES.items()}

_METADATA: Final = "__metadata__"
_LOGICAL: Final = "maas_sdk.logical"
_REMEDY: Final = "export or copy the bundle again"
_MAX_RANK: Final = 64  # numpy's
_MAX_ARRAY_BYTES: Final = 2**63 - 1  # numpy's


class Spec(NamedTuple):
    """Dtype name and shape of a tensor, stored or decoded."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class TensorSlot(NamedTuple):
    """Position in the data, dtype and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    nbytes: int


def make_header(
    tensors: Mapping[str, Array], metadata: Mapping[str, str]
) -> tuple[list[tuple[str, int]], bytes]:
    """Return names with sizes in bytes in the order of the file, and the padded header."""
    for reserved, among in ((_METADATA, tensors), (_LOGICAL, metadata)):
        if reserved in among:
            raise ConfigError(f"{reserved!r} is reserved: choose another name")
    specs: dict[str, tuple[str, tuple[int, ...], int]] = {}
    for name, tensor in tensors.items():
        shape = tuple(int(size) for size in tensor.shape)
        try:
            dtype = dtype_name(tensor.dtype)
        except InputError as error:
            raise InputError(f"tensor {name!r}: {error}") from error
        specs[name] = (dtype, shape, packed_nbytes(dtype, shape))

    def place(name: str) -> tuple[bool, int, str]:
        dtype, _, nbytes = specs[name]
        return nbytes % ALIGNMENT != 0, -BITS[dtype], name

    document: dict[str, Any] = {}
    logical: dict[str, Any] = {}
    order: list[tuple[str, int]] = []
    begin = 0
    for name in sorted(specs, key=place):
        dtype, shape, nbytes = specs[name]
        stored = _SPEC_NAMES.get(dtype)
        # The specification has no packed tensor that ends inside a byte.
        if stored is None or (math.prod(shape) * BITS[dtype]) % 8:
            logical[name] = {"dtype": dtype, "shape": list(shape)}
            stored, shape = "U8", (nbytes,)
        document[name] = {
            "dtype": stored,
            "shape": list(shape),
            "data_offsets": [begin, begin + nbytes],
        }
        order.append((name, nbytes))
        begin += nbytes
    words = dict(metadata)
    if logical:
        words[_LOGICAL] = json.dumps(logical, sort_keys=True, ensure_ascii=False)
    if words:
        document = {_METADATA: words, **document}
    try:
        header = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"a tensor's name or metadata is not valid text: {error}") from error
    header += b" " * (-(8 + len(header)) % ALIGNMENT)
    if len(header) > MAX_HEADER_BYTES:
        raise ConfigError(
            f"the names of {len(tensors)} tensors make a header of {len(header)} bytes; "
            f"safetensors allows {MAX_HEADER_BYTES}: use fewer tensors or shorter names"
        )
    return order, header


def parse_header(
    header: bytes, data_nbytes: int, where: str
) -> tuple[dict[str, TensorSlot], dict[str, str]]:
    """Parse a header, checked against the number of data bytes; tensors in the file's order."""
    document = _json(header, where, "its header")
    metadata = document.pop(_METADATA, {})
    if not isinstance(metadata, dict) or any(type(v) is not str for v in metadata.values()):
        raise corrupt(where, f"{_METADATA} must be an object of strings")
    places = {name: _place(name, entry, where) for name, entry in document.items()}
    places = dict(sorted(places.items(), key=lambda item: (item[1].begin, item[1].nbytes, item[0])))
    end = 0
    for name, place in places.items():
        if place.begin != end:
            fault = "overlaps the one before it" if place.begin < end else "leaves a hole"
            raise corrupt(
                where, f"tensor {name!r} {fault}: expected to begin at {end}, found {place.begin}"
            )
        end += place.nbytes
        if end > data_nbytes:
            raise corrupt(
                where,
                f"tensor {name!r} ends at byte {end} of the data, found only {data_nbytes} bytes",
            )
    if end != data_nbytes:
        raise corrupt(where, f"its tensors take {end} bytes, found {data_nbytes}")
    if _LOGICAL in metadata:
        logical = _json(metadata.pop(_LOGICAL).encode("utf-8", "replace"), where, _LOGICAL)
        for name, entry in logical.items():
            places[name] = _logical_place(name, entry, places.get(name), where)
    return places, metadata


def _place(name: str, entry: object, where: str) -> TensorSlot:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise corrupt(where, f"tensor {name!r}: expected exactly dtype, shape and data_offsets")
    theirs, offsets = entry["dtype"], entry["data_offsets"]
    dtype = DTYPES.get(theirs) if type(theirs) is str else None
    if dtype is None:
        raise corrupt(
            where, f"tensor {name!r}: unknown dtype {theirs!r}; known are {', '.join(DTYPES)}"
        )
    shape = _shape(name, entry["shape"], dtype, where)
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise corrupt(where, f"tensor {name!r}: data_offsets must be begin ≤ end, each ≥ 0")
    expected, found = packed_nbytes(dtype, shape), offsets[1] - offsets[0]
    if expected != found or (math.prod(shape) * BITS[dtype]) % 8:
        raise corrupt(
            where,
            f"tensor {name!r}: {theirs}{list(shape)} takes {expected} whole bytes, "
            f"its offsets span {found}",
        )
    return TensorSlot(dtype=dtype, shape=shape, begin=offsets[0], nbytes=found)


def _logical_place(name: str, entry: object, stored: TensorSlot | None, where: str) -> TensorSlot:
    """Return the slot of the tensor that a stored U8 tensor represents."""
    if stored is None or stored.dtype != "uint8" or len(stored.shape) != 1:
        raise corrupt(where, f"{_LOGICAL} speaks of {name!r}, which is no U8 tensor of rank 1")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape"}:
        raise corrupt(where, f"{_LOGICAL}: tensor {name!r}: expected exactly dtype and shape")
    dtype = entry["dtype"]
    if type(dtype) is not str or dtype not in BITS:
        raise corrupt(where, f"{_LOGICAL}: tensor {name!r}: unknown dtype {dtype!r}")
    shape = _shape(name, entry["shape"], dtype, where)
    if packed_nbytes(dtype, shape) != stored.nbytes:
        raise corrupt(
            where,
            f"{_LOGICAL}: tensor {name!r}: {dtype}{list(shape)} takes "
            f"{packed_nbytes(dtype, shape)} bytes, found {stored.nbytes}",
        )
    return TensorSlot(dtype=dtype, shape=shape, begin=stored.begin, nbytes=stored.nbytes)


def _shape(name: str, shape: Any, dtype: str, where: str) -> tuple[int, ...]:
    if not _sizes(shape) or len(shape) > _MAX_RANK:
        raise corrupt(
            where, f"tensor {name!r}: shape must be a list of at most {_MAX_RANK} sizes ≥ 0"
        )
    # numpy multiplies the other dimensions even where one is 0.
    if math.prod(size or 1 for size in shape) * max(BITS[dtype] // 8, 1) > _MAX_ARRAY_BYTES:
        raise corrupt(where, f"tensor {name!r}: shape {list(shape)} is beyond any memory")
    return tuple(shape)


def _sizes(value: Any) -> bool:
    return type(value) is list and all(type(item) is int and item >= 0 for item in value)


def _json(data: bytes, where: str, what: str) -> dict[str, Any]:
    try:
        if not data.startswith(b"{"):
            raise ValueError("expected '{' first")
        document: dict[str, Any] = strict_json.decode(data)
    except (ValueError, RecursionError) as error:
        raise corrupt(where, f"{what} is not a JSON object: {error}") from error
    return document


def corrupt(where: str, fault: str) -> CorruptError:
    """Return the error for a fault in the file ``where``."""
    return CorruptError(f"{where}: {fault}; {_REMEDY}", file=where)
