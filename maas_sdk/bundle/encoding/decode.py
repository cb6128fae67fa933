"""The formulas that make a tensor from its parts, one for each scheme.

The rule: one formula serves both sides. numpy asks it for a block of rows at a time, which stays in
the processor's cache; a compiled program (jax.numpy, handed in as ``xp``) for the whole at once.
Both get the same bits, subnormal numbers aside, which XLA takes for zero.

What only the data can say (a code beyond the codebook) is checked where numpy decodes; a compiled
program cannot raise, and clips. All else has been checked before (``registry.py``).

Letters: N elements of the result, K entries of a codebook or buckets, M orders of signs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from maas_sdk.bundle.encoding.entropy import CODECS
from maas_sdk.bundle.files.safetensors import Spec
from maas_sdk.errors import CorruptError
from maas_sdk.tensors import BITS, Array, array_from_bytes, packed_nbytes

__all__ = [
    "EncodedPart",
    "Work",
    "bitmap",
    "broken",
    "codebook",
    "entropy",
    "hash_buckets",
    "hashed",
    "joined",
    "packed",
    "scaled",
    "signs",
]


class EncodedPart(Protocol):
    """One input of a formula: a stored tensor, or one that is decoded in turn."""

    spec: Spec

    def whole(self) -> Any:
        """Return the whole part; its decoded values are kept."""
        ...

    def rows(self, cut: slice | None) -> Any:
        """Return some rows of the first axis; None: all."""
        ...


class Work(NamedTuple):
    """One encoded tensor, as its formula sees it."""

    name: str
    spec: Spec
    params: Mapping[str, int]
    parts: Mapping[str, EncodedPart]
    # numpy, or jax.numpy.
    xp: Any
    # What a formula keeps from one block of rows for the next.
    memo: dict[str, Any]


def broken(name: str, what: str, expected: object, found: object) -> CorruptError:
    """The error for an encoded tensor that cannot be decoded."""
    return CorruptError(
        f"tensor {name!r}: {what}: expected {expected}, found {found}; compress and export the "
        "model again",
        tensor=name,
    )


def scaled(work: Work, cut: slice | None, out: Array | None) -> Any:
    """(codes - zero) · scale, in float32."""
    xp, codes = work.xp, work.parts["codes"].rows(cut)
    if xp is not np:
        values = codes.astype(xp.float32)
    else:
        values = np.empty(codes.shape, np.float32) if out is None else out
        if codes.dtype.itemsize == 1 and codes.dtype.kind not in "iu":
            # ml_dtypes converts one by one; there are only 256 of them.
            table = np.arange(256, dtype=np.uint8).view(codes.dtype).astype(np.float32)
            np.take(table, codes.view(np.uint8), out=values, mode="clip")
        else:
            np.copyto(values, codes, casting="unsafe")
    for role, operation in (("zero", xp.subtract), ("scale", xp.multiply)):
        if role in work.parts:
            side = _rows_of_groups(work.parts[role].whole(), work.spec.shape, cut)
            values = _by_groups(operation, values, side.astype(xp.float32), xp)
    return values


def _rows_of_groups(side: Any, shape: tuple[int, ...], cut: slice | None) -> Any:
    """Return the scale's entries for some rows: one for each, or one for all."""
    if cut is None or side.shape[0] == 1:
        return side
    group = shape[0] // side.shape[0]
    return side[cut] if group == 1 else side[np.arange(cut.start, cut.stop) // group]


def _by_groups(operation: Any, values: Any, side: Any, xp: Any) -> Any:
    """An operation between values and one number per group of neighbours along each axis."""
    inner: list[int] = []
    outer: list[int] = []
    for size, count in zip(values.shape, side.shape, strict=True):
        grouped = count not in (1, size)
        inner += [count, size // count] if grouped else [size]
        outer += [count, 1] if grouped else [count]
    view, side = values.reshape(inner), side.reshape(outer)
    if xp is np:
        operation(view, side, out=view)
        return values
    return operation(view, side).reshape(values.shape)


def packed(work: Work, cut: slice | None, out: Array | None) -> Any:
    """Planes of shifted bytes, one after another along the axis."""
    xp, data = work.xp, work.parts["data"]
    bits, axis, signed = work.params["bits"], work.params["axis"], work.params["signed"]
    nbytes, along = data.spec.shape[axis], axis > 0
    begin, end = (0, work.spec.shape[axis]) if along or cut is None else (cut.start, cut.stop)
    block = data.rows(cut) if along else None
    planes = []
    for plane in range(8 // bits):
        # Of this plane, the bytes that hold elements begin … end of the axis.
        low, high = max(begin - plane * nbytes, 0), min(end - plane * nbytes, nbytes)
        if low < high:
            some = slice(low, high)
            found = data.rows(some) if block is None else block[(slice(None),) * axis + (some,)]
            planes.append(_plane(found, bits, plane, signed, xp))
    if not planes:
        rows = work.spec.shape[0] if cut is None else cut.stop - cut.start
        return xp.zeros((rows, *work.spec.shape[1:]), work.spec.dtype)
    return planes[0] if len(planes) == 1 else xp.concatenate(planes, axis)


def _plane(data: Any, bits: int, plane: int, signed: int, xp: Any) -> Any:
    """The codes at one place of every byte."""
    if signed:
        # Up to the top of the byte, and down again with copies of the sign.
        top = xp.left_shift(data, 8 - bits * (plane + 1))
        return xp.right_shift(top.view(np.int8) if xp is np else top.astype(xp.int8), 8 - bits)
    return xp.right_shift(data, bits * plane) & (2**bits - 1)


def joined(work: Work, cut: slice | None, out: Array | None) -> Any:
    """Low + (high << low_bits), in uint8."""
    high = work.xp.left_shift(work.parts["high"].rows(cut), work.params["low_bits"])
    return work.parts["low"].rows(cut) + high


def codebook(work: Work, cut: slice | None, out: Array | None) -> Any:
    """codebook[..., codes]."""
    xp, codes, book = work.xp, work.parts["codes"].rows(cut), work.parts["codebook"].whole()
    entries = book.shape[-1]
    if not math.prod(codes.shape):
        return xp.zeros(codes.shape, book.dtype)
    if xp is np and entries < 256 and (found := codes.max()) >= entries:
        raise broken(work.name, "codes", f"each below the codebook's {entries} entries", found)
    index = codes.astype(np.intp if xp is np else xp.int32)
    if book.ndim > 1:
        if cut is not None and book.shape[0] > 1:
            book = book[cut]
        places = math.prod(book.shape[:-1])
        first = np.arange(0, places * entries, entries, dtype=index.dtype)
        index = index + first.reshape(book.shape[:-1])
    if xp is not np:
        return xp.take(book.reshape(-1), index, mode="clip")
    # With "clip" numpy writes straight into what it is given.
    return np.take(book.reshape(-1), index, out=out, mode="clip")


def signs(work: Work, cut: slice | None, out: Array | None) -> Any:
    """Σ_i betas_i · (2 · bit_i - 1), summed in the order of i."""
    xp, codes, betas = work.xp, work.parts["codes"].rows(cut), work.parts["betas"].whole()
    if cut is not None and betas.shape[0] > 1:
        betas = betas[cut]
    total = None
    for order in range(betas.shape[-1]):
        turned = (((codes >> order) & 1) ^ 1).astype(xp.uint32) << 31
        term = (betas[..., order].view(xp.uint32) ^ turned).view(xp.float32)
        total = term if total is None else total + term
    return total


# Bytes of a mask whose bits are counted together.
_COUNTED: Final = 4096


def bitmap(work: Work, cut: slice | None, out: Array | None) -> Any:
    """The next of the values where a bit is 1, zero elsewhere."""
    xp, shape = work.xp, work.spec.shape
    mask, values = work.parts["mask"].whole(), work.parts["values"].whole()
    if xp is not np:
        bits = (mask[:, None] >> np.arange(8, dtype=np.uint8)) & 1
        bits = bits.reshape(-1)[: math.prod(shape)]
        if not values.shape[0]:
            return xp.zeros(shape, values.dtype)
        index = xp.cumsum(bits, dtype=xp.int32) - 1
        dense = xp.where(bits == 1, xp.take(values, index, mode="clip"), xp.zeros((), values.dtype))
        return dense.reshape(shape)
    if "before" not in work.memo:
        work.memo["before"] = _counts(work.name, mask, values)
    begin, end, shape = _flat(shape, cut)
    # Values before the first row: those of whole chunks of the mask, of bytes, and of bits.
    chunk = begin // 8 // _COUNTED
    bits = np.unpackbits(mask[chunk * _COUNTED : -(-end // 8)], bitorder="little").view(bool)
    skip = begin - chunk * _COUNTED * 8
    first = work.memo["before"][chunk] + np.count_nonzero(bits[:skip])
    bits = bits[skip : skip + end - begin]
    dense = np.zeros(end - begin, values.dtype)
    # Half the time of indexing by the bits themselves.
    places = np.flatnonzero(bits)
    dense[places] = values[first : first + places.size]
    return dense.reshape(shape)


def _counts(name: str, mask: Array, values: Array) -> Array:
    """Bits that are 1 before each chunk of a mask: [chunks + 1]."""
    starts = np.arange(0, mask.size, _COUNTED)
    counts = np.zeros(starts.size + 1, np.int64)
    if mask.size:
        ones = np.bitwise_count(mask)
        np.cumsum(np.add.reduceat(ones, starts, dtype=np.int64), out=counts[1:])
    if counts[-1] != values.shape[0]:
        raise broken(name, "values", f"{counts[-1]}, as many as the mask has bits", values.shape[0])
    return counts


def _flat(shape: tuple[int, ...], cut: slice | None) -> tuple[int, int, tuple[int, ...]]:
    """Return start and end of some rows in the flattened tensor, and their shape."""
    if cut is None:
        return 0, math.prod(shape), shape
    row = math.prod(shape[1:])
    return cut.start * row, cut.stop * row, (cut.stop - cut.start, *shape[1:])


def hashed(work: Work, cut: slice | None, out: Array | None) -> Any:
    """The element's bucket, with the sign that its index says (``hash_buckets``)."""
    xp, buckets = work.xp, work.parts["buckets"].whole()
    begin, end, shape = _flat(work.spec.shape, cut)
    if begin == end:
        return xp.zeros(shape, xp.float32)
    index = xp.arange(begin, end, dtype=xp.uint32)
    where, sign = hash_buckets(index, buckets.shape[0], work.params["seed"], xp)
    found = xp.take(buckets, where, mode="clip").view(xp.uint32) ^ sign
    return found.view(xp.float32).reshape(shape)


def hash_buckets(index: Any, buckets: int, seed: int, xp: Any = np) -> tuple[Any, Any]:
    """Return the bucket that each element shares, and its sign.

    The finalizer of MurmurHash3 (Appleby 2011, fmix32) on index ^ seed: the top bit is the sign
    (1: minus, as in a float), the rest modulo K the bucket. Chen et al. 2015, "Compressing Neural
    Networks with the Hashing Trick", section 4.3.

    Args:
        index: uint32, flat indices of elements, of any shape.
        buckets: K, 1 to 2^31 - 1.
        seed: 0 to 2^32 - 1.
        xp: numpy or jax.numpy; both give the same.

    Returns:
        (int32 bucket, uint32 sign: the top bit or 0), each of the shape of ``index``.
    """
    mixed = index ^ xp.uint32(seed)
    mixed = (mixed ^ (mixed >> 16)) * xp.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * xp.uint32(0xC2B2AE35)
    mixed = mixed ^ (mixed >> 16)
    rest, count = mixed & xp.uint32(0x7FFFFFFF), xp.uint32(buckets)
    # rest % count, of which numpy is slow; division by one number it has a fast way for.
    where = rest - (rest // count) * count
    return where.astype(xp.int32), mixed & xp.uint32(0x80000000)


def entropy(codec: str) -> Callable[[Work, slice | None, Array | None], Any]:
    """Decompress the stream of bytes in which a tensor is stored."""

    def formula(work: Work, cut: slice | None, out: Array | None) -> Any:
        dtype, shape = work.spec
        data = work.parts["data"].whole()
        raw = np.empty(packed_nbytes(dtype, shape), np.uint8)
        if out is not None and BITS[dtype] >= 8:
            raw = out.reshape(-1).view(np.uint8)
        try:
            CODECS[codec].decompress(np.ascontiguousarray(data).data, raw.data)
        except ValueError as error:
            raise broken(work.name, codec, f"a stream of {raw.nbytes} bytes", error) from error
        return array_from_bytes(dtype, shape, raw.data)

    return formula
