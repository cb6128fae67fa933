"""The writing side of encodings: numbers that are already chosen, laid out as the schemes require.

Nothing here chooses a value: codes, scales and codebooks come from the compressor. The rule: the
result decodes to the given values, bit by bit.

Names of parts follow from the tensor's: ``conv1/kernel`` has the part ``conv1/kernel/codes``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from maas_sdk.bundle.encoding.decode import hash_buckets
from maas_sdk.bundle.encoding.entropy import CODECS
from maas_sdk.bundle.encoding.spec import Encoding, Stored
from maas_sdk.errors import ConfigError
from maas_sdk.tensors import Array, array_to_bytes, dtype_name

__all__ = ["compose", "compress_tensor", "hash_of", "pack_bitmap", "pack_codes"]


def compose(
    name: str,
    scheme: str,
    parts: Mapping[str, Array | Stored],
    *,
    dtype: str,
    shape: tuple[int, ...],
    params: Mapping[str, int] | None = None,
) -> Stored:
    """A tensor from its parts, each an array or a tensor that is encoded itself.

    Args:
        name: of the tensor.
        scheme: a key of ``SCHEMES``.
        parts: by role. An array is stored as ``<name>/<role>``, a ``Stored`` under its own name;
            several tensors may share one, such as a codebook.
        dtype: name of the decoded tensor's dtype.
        shape: of the decoded tensor.
        params: the scheme's parameters.

    Raises:
        ConfigError: two different parts have one name.
    """
    encodings: dict[str, Encoding] = {}
    tensors: dict[str, Array] = {}
    names: dict[str, str] = {}
    for role, part in parts.items():
        if not isinstance(part, Stored):
            place = f"{name}/{role}"
            part = Stored(name=place, encodings={}, tensors={place: part})
        for key, tensor in part.tensors.items():
            if tensors.setdefault(key, tensor) is not tensor or key in encodings:
                raise _twice(name, key)
        for key, encoding in part.encodings.items():
            if encodings.setdefault(key, encoding) != encoding or key in tensors:
                raise _twice(name, key)
        names[role] = part.name
    if name in tensors or name in encodings:
        raise _twice(name, name)
    encodings[name] = Encoding(
        scheme=scheme, dtype=dtype, shape=tuple(shape), parts=names, params=dict(params or {})
    )
    return Stored(name=name, encodings=encodings, tensors=tensors)


def _twice(name: str, part: str) -> ConfigError:
    return ConfigError(f"tensor {name!r}: two different parts are named {part!r}: rename one")


# Bits of a code → bits of its low part, where one byte holds no whole number of codes.
_LOW_BITS: Final = {3: 2, 5: 4, 6: 4, 7: 4}


def pack_codes(
    name: str, codes: Array, *, bits: int, axis: int = -1, signed: bool = False
) -> Stored:
    """Pack codes of 1 to 8 bits into as few bytes as possible.

    Codes of 1, 2 and 4 bits become the scheme packed; those of 3, 5, 6 and 7 are joined from such,
    and are unsigned; those of 8 are stored as they are.

    Args:
        name: of the tensor of codes.
        codes: whole numbers of any integer dtype; rank ≥ 1, unless ``bits`` is 8.
        bits: 1 to 8.
        axis: along which bytes are shared; best the last one, and a long one.
        signed: whether codes are -2^(bits-1) … 2^(bits-1) - 1, int8 when decoded, instead of
            0 … 2^bits - 1, uint8.

    Raises:
        ConfigError: bits or axis out of range; a code that its bits do not hold; signed codes of
            3, 5, 6 or 7 bits.
    """
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if not 1 <= bits <= 8 or (signed and bits in _LOW_BITS):
        kinds = "1, 2, 4 or 8 bits for signed codes" if signed else "1 to 8 bits"
        raise ConfigError(
            f"tensor {name!r}: expected {kinds}, got {bits}"
            + (": add 2^(bits-1), and let the scale have it as zero" if signed else "")
        )
    codes = np.asarray(codes)
    if codes.size and not (codes.min() >= least and codes.max() <= most):
        raise ConfigError(
            f"tensor {name!r}: expected codes of {bits} bits, {least} to {most}, got "
            f"{codes.min()} to {codes.max()}"
        )
    if bits == 8:
        plain = codes.astype(np.int8 if signed else np.uint8, copy=False)
        return Stored(name=name, encodings={}, tensors={name: plain})
    if not -codes.ndim <= axis < codes.ndim:
        raise ConfigError(f"tensor {name!r}: codes {list(codes.shape)} have no axis {axis}")
    axis %= codes.ndim
    if bits not in _LOW_BITS:
        return compose(
            name,
            "packed",
            {
                "data": _packed(
                    codes.astype(np.int8 if signed else np.uint8, copy=False), bits, axis
                )
            },
            dtype="int8" if signed else "uint8",
            shape=codes.shape,
            params={"bits": bits, "axis": axis, "signed": int(signed)},
        )
    low_bits = _LOW_BITS[bits]
    codes = codes.astype(np.uint8, copy=False)
    halves = {
        "low": pack_codes(f"{name}/low", codes & (2**low_bits - 1), bits=low_bits, axis=axis),
        "high": pack_codes(f"{name}/high", codes >> low_bits, bits=bits - low_bits, axis=axis),
    }
    return compose(
        name, "joined", halves, dtype="uint8", shape=codes.shape, params={"low_bits": low_bits}
    )


# Bytes that are packed at a time: what is on the way takes no more than that.
_BLOCK_NBYTES: Final = 2**20


def _packed(codes: Array, bits: int, axis: int) -> Array:
    """[…, size, …] codes of one byte → […, ceil(size · bits / 8), …] bytes."""
    planes = 8 // bits
    size = codes.shape[axis]
    nbytes = -(-size // planes)
    packed = np.zeros((*codes.shape[:axis], nbytes, *codes.shape[axis + 1 :]), np.uint8)
    codes = codes.view(np.uint8)
    rows = len(packed)
    step = max(1, _BLOCK_NBYTES * rows // max(packed.nbytes, 1))
    for begin in range(0, rows, step):
        block = packed[begin : begin + step]
        for plane in range(planes):
            first = plane * nbytes
            if axis == 0:
                some = codes[first + begin : min(first + begin + len(block), size, first + nbytes)]
            else:
                cut = (slice(None),) * axis + (slice(first, min(first + nbytes, size)),)
                some = codes[begin : begin + step][cut]
            place = block[(slice(None),) * axis + (slice(some.shape[axis]),)]
            place |= (some & (2**bits - 1)) << (bits * plane)
    return packed


def pack_bitmap(name: str, dense: Array) -> Stored:
    """Store a sparse tensor as one bit for each element and the nonzero values.

    Negative zero counts as zero.

    Args:
        name: of the tensor.
        dense: any shape and dtype.
    """
    flat = np.ascontiguousarray(dense).reshape(-1)
    there = flat != 0
    return compose(
        name,
        "bitmap",
        {"mask": np.packbits(there, bitorder="little"), "values": flat[there]},
        dtype=dtype_name(dense.dtype),
        shape=dense.shape,
    )


def hash_of(count: int, buckets: int, seed: int) -> tuple[Array, Array]:
    """Return bucket and sign of each element, for fitting the buckets.

    Args:
        count: elements of the flattened tensor, at most 2^32.
        buckets: K, 1 to 2^31 - 1.
        seed: 0 to 2^32 - 1.

    Returns:
        int32 [count], the bucket; float32 [count], 1 or -1: element i is sign[i] · buckets[of[i]].
    """
    if not (0 <= count <= 2**32 and 1 <= buckets < 2**31 and 0 <= seed < 2**32):
        raise ConfigError(
            "hashed: expected count ≤ 2^32, buckets from 1 to 2^31 - 1 and a seed below 2^32, got "
            f"{count}, {buckets}, {seed}"
        )
    where, sign = hash_buckets(np.arange(count, dtype=np.uint32), buckets, seed)
    return where, (np.float32(1).view(np.uint32) | sign).view(np.float32)


def compress_tensor(
    name: str, tensor: Array, *, codec: str = "zstd", level: int | None = None
) -> Stored:
    """Store a tensor as a stream of zstd or zlib; decoded on the host alone.

    Args:
        name: of the tensor.
        tensor: any shape and dtype; best one with few different bytes, such as codes.
        codec: "zstd", which needs the extra [zstd] to write and to read; or "zlib", slower and
            larger, which needs nothing.
        level: of the codec; None: a fair trade of time for size.

    Raises:
        ConfigError: an unknown codec.
        DependencyError: zstd without its package.
    """
    if codec not in CODECS:
        raise ConfigError(f"tensor {name!r}: expected a codec of {sorted(CODECS)}, got {codec!r}")
    chosen = CODECS[codec]
    stream = chosen.compress(array_to_bytes(tensor), chosen.level if level is None else level)
    return compose(
        name,
        codec,
        {"data": np.frombuffer(stream, np.uint8)},
        dtype=dtype_name(tensor.dtype),
        shape=tensor.shape,
    )
