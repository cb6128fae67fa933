"""Frame decoding: bytes → calls and results, every length checked before it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, TypeVar

import msgpack
import numpy as np

from maas_sdk.errors import FrameError, InputError, TooLargeError, WireError
from maas_sdk.tensors import BITS, Array, array_from_bytes, dtype_from_name
from maas_sdk.wire.calls import Call, Failure, Result
from maas_sdk.wire.layout import (
    ALIGNMENT,
    BIN8,
    BIN32,
    BULK,
    CALLS,
    FIXARRAY5,
    KINDS,
    MAX_MS,
    PADDING,
    PREFIX,
    RESULTS,
    VERSION,
)

__all__ = ["FrameLimits", "decode_calls", "decode_results"]


class FrameLimits(NamedTuple):
    """Limits on a frame that is read; beyond any of them: ``TooLargeError``."""

    # Bytes of the whole frame; also of all its tensors that are narrower than a byte, once each
    # element has a byte of its own.
    max_bytes: int = 256 * 1024 * 1024
    # Calls, or results, in a frame.
    max_calls: int = 4096
    # Inputs of a call, or outputs of a result.
    max_tensors: int = 64
    # Dimensions of a tensor; numpy itself ends at 64.
    max_rank: int = 32
    # UTF-8 bytes of an id, or of the name of a program or tensor.
    max_name_bytes: int = 256
    # Bytes of a call, or a result, without the elements of its tensors.
    max_head_bytes: int = 32 * 1024


_T = TypeVar("_T")
# Everything that msgpack raises over bytes; it has no common base below these.
_UNREADABLE: Final = (ValueError, TypeError, OverflowError, msgpack.UnpackException)


# Elements; numpy counts the bytes of 16 each in a signed 64-bit number, also where a size is 0.
_MAX_SPAN: Final = 2**58


def decode_calls(
    data: bytes | bytearray | memoryview, limits: FrameLimits | None = None
) -> list[Call | Failure]:
    """Return the calls of a frame, in its order; the arrays are read-only views of ``data``.

    A call that can be read but not be meant (unknown dtype, unknown field, …) becomes a
    ``Failure`` with its id, and the others are not disturbed.

    Raises:
        FrameError: not a frame, cut, of another version, or of results.
        TooLargeError: over one of ``limits``.
    """
    return _decode(CALLS, data, limits or FrameLimits(), _call_in)


def decode_results(
    data: bytes | bytearray | memoryview, limits: FrameLimits | None = None
) -> list[Result | Failure]:
    """Return the results of a frame, in its order; as ``decode_calls``.

    Fields that a newer server adds are passed over.
    """
    return _decode(RESULTS, data, limits or FrameLimits(), _result_in)


def _decode(
    kind: int,
    data: bytes | bytearray | memoryview,
    limits: FrameLimits,
    read: Callable[[str, dict[str, Any], _Reader], _T],
) -> list[_T | Failure]:
    head, bulk = _split(kind, memoryview(data).toreadonly().cast("B"), limits)
    reader = _Reader(bulk, limits)
    found: list[_T | Failure] = []
    ids: set[str] = set()
    for item in _items(head, limits):
        if type(item) is not dict:
            raise FrameError(f"{KINDS[kind]}[{len(found)}]: expected a map, got {_kind(item)}")
        id = reader.name(item.pop("id", None), "id")
        if id in ids:
            raise FrameError(f"two {KINDS[kind]} of the frame have the id {id!r}")
        ids.add(id)
        try:
            found.append(read(id, item, reader))
        except InputError as error:
            found.append(Failure.from_error(id, error))
        except WireError as error:
            raise type(error)(f"{KINDS[kind]}[{len(found)}] {id!r}: {error}", id=id) from None
    return found


def _split(kind: int, body: memoryview, limits: FrameLimits) -> tuple[memoryview, memoryview]:
    """Split head and bulk of a frame, every length compared with the bytes that are there."""
    if body.nbytes > limits.max_bytes:
        raise TooLargeError(
            f"a frame of {body.nbytes} bytes is over the limit of {limits.max_bytes}: "
            "send fewer rows per frame"
        )
    if body.nbytes < PREFIX.size:
        raise FrameError(f"a frame has at least {PREFIX.size} bytes, {body.nbytes} came")
    array, version, found_kind, marker, head_size = PREFIX.unpack_from(body)
    if array != FIXARRAY5 or marker != BIN32:
        raise FrameError(
            f"not a frame: it starts with {bytes(body[:4]).hex(' ')}, expected "
            f"{FIXARRAY5:02x} {VERSION:02x} {kind:02x} {BIN32:02x}"
        )
    if version != VERSION:
        raise FrameError(f"a frame of version {version}; this side reads version {VERSION}")
    if found_kind != kind:
        came = KINDS.get(found_kind, f"kind {found_kind}")
        raise FrameError(f"expected a frame of {KINDS[kind]}, got {came}")
    head_end = PREFIX.size + head_size
    if head_end + PADDING.size + BULK.size > body.nbytes:
        raise FrameError(f"the frame is cut: a head of {head_size} bytes does not fit into it")
    marker, padding = PADDING.unpack_from(body, head_end)
    bulk_start = head_end + PADDING.size + padding + BULK.size
    if marker != BIN8 or padding >= ALIGNMENT or bulk_start % ALIGNMENT:
        raise FrameError(f"byte {head_end}: expected padding up to a multiple of {ALIGNMENT}")
    if bulk_start > body.nbytes:
        raise FrameError(f"the frame is cut after {body.nbytes} bytes, in its padding")
    marker, bulk_size = BULK.unpack_from(body, bulk_start - BULK.size)
    if marker != BIN32 or any(body[head_end + PADDING.size : bulk_start - BULK.size]):
        raise FrameError(f"byte {head_end}: expected zeros as padding, then the bulk")
    if bulk_start + bulk_size != body.nbytes:
        raise FrameError(
            f"the frame declares {bulk_size} bytes of tensors, {body.nbytes - bulk_start} came"
        )
    if head_size > limits.max_calls * limits.max_head_bytes:
        raise TooLargeError(f"a head of {head_size} bytes is over the limits: send fewer calls")
    return body[PREFIX.size : head_end], body[bulk_start:]


def _items(head: memoryview, limits: FrameLimits) -> Iterator[Any]:
    """Yield the values of the head's array, one by one, after all of them have been measured."""
    scanner = _unpacker(head, limits)
    try:
        count = scanner.read_array_header()
    except _UNREADABLE as error:
        raise FrameError(f"the head is not a msgpack array: {_reason(error)}") from error
    if count > limits.max_calls:
        raise TooLargeError(f"a frame of {count} calls, the limit is {limits.max_calls}")
    end = scanner.tell()
    builder = _unpacker(head[end:], limits)
    index = 0
    try:
        for index in range(count):
            start = end
            scanner.skip()
            end = scanner.tell()
            if end - start > limits.max_head_bytes:
                raise TooLargeError(
                    f"entry {index} of the head has {end - start} bytes, "
                    f"the limit is {limits.max_head_bytes}"
                )
        if end != head.nbytes:
            raise FrameError(f"{head.nbytes - end} bytes after the last entry of the head")
        for index in range(count):  # noqa: B007 - it is in the message below
            yield builder.unpack()
    except _UNREADABLE as error:
        reason = _reason(error)
        deep = isinstance(error, msgpack.StackError)
        refusal = TooLargeError if deep or "max_" in reason else FrameError
        raise refusal(f"entry {index} of the head: {reason}") from error


def _unpacker(data: memoryview, limits: FrameLimits) -> Any:
    unpacker = msgpack.Unpacker(
        max_buffer_size=max(data.nbytes, 1),
        # read_array_header counts the calls itself; within a call, arrays are shapes and tensors.
        max_array_len=max(3, limits.max_rank),
        max_map_len=max(8, limits.max_tensors),
    )
    unpacker.feed(data)
    return unpacker


def _reason(error: BaseException) -> str:
    return str(error) or {"StackError": "nested too deeply", "OutOfData": "cut"}.get(
        type(error).__name__, type(error).__name__
    )


def _kind(value: object) -> str:
    return type(value).__name__


class _Reader:
    """Reader of checked values from the head; it walks the bulk forward only."""

    def __init__(self, bulk: memoryview, limits: FrameLimits) -> None:
        self._bulk = bulk
        self._limits = limits
        self._end = 0
        self._unpacked_nbytes = 0

    def name(self, value: object, where: str) -> str:
        if type(value) is not str:
            raise FrameError(f"{where}: expected a string, got {_kind(value)}")
        limit = self._limits.max_name_bytes
        # A character has at most 4 bytes: most names need no encoding to be measured.
        if 4 * len(value) > limit and len(value.encode()) > limit:
            raise TooLargeError(f"{where}: a name of over {limit} bytes")
        return value

    def tensors(self, value: object) -> dict[str, Array]:
        if type(value) is not dict:
            raise FrameError(f"expected a map of tensors, got {_kind(value)}")
        if len(value) > self._limits.max_tensors:
            raise TooLargeError(f"{len(value)} tensors, the limit is {self._limits.max_tensors}")
        refusal: InputError | None = None
        arrays = {}
        for key, tensor in value.items():
            name = self.name(key, "the name of a tensor")
            try:
                arrays[name] = self._tensor(tensor)
            except InputError as error:  # the walk goes on: later offsets are held against these
                refusal = refusal or InputError(f"tensor {name!r}: {error}", tensor=name)
            except WireError as error:
                raise type(error)(f"tensor {name!r}: {error}", tensor=name) from None
        if refusal is not None:
            raise refusal
        return arrays

    def _tensor(self, value: Any) -> Array:
        if type(value) is not list or len(value) != 3:
            raise FrameError(f"expected [dtype, shape, offset], got {_kind(value)}")
        dtype, shape, offset = value
        if type(dtype) is not str or type(shape) is not list or type(offset) is not int:
            raise FrameError("expected [string, array of sizes, offset]")
        if len(shape) > self._limits.max_rank:
            raise TooLargeError(f"{len(shape)} dimensions, the limit is {self._limits.max_rank}")
        span = 1  # elements, were no dimension 0: what numpy must be able to count
        for size in shape:
            if type(size) is not int or size < 0:
                raise FrameError(f"expected sizes ≥ 0 in the shape, got {size!r:.64}")
            span *= size or 1
        available = self._bulk.nbytes
        if offset % ALIGNMENT or not self._end <= offset <= available:
            raise FrameError(
                f"offset {offset} is not a multiple of {ALIGNMENT} between {self._end}, the end of "
                f"the tensor before, and {available}, the end of the bulk"
            )
        self._end = offset
        bits = BITS.get(dtype)
        if bits is None:
            known = ", ".join(sorted(BITS))
            raise InputError(f"unknown dtype {dtype[:64]!r}; known are {known}", dtype=dtype[:64])
        nbytes = 0 if 0 in shape else (span * bits + 7) // 8
        if offset + nbytes > available:
            raise FrameError(
                f"{dtype}{shape} takes {nbytes} bytes at offset {offset}, the bulk has {available}"
            )
        if span > _MAX_SPAN:
            raise TooLargeError(f"shape {shape} is beyond addressing")
        self._end = offset + nbytes
        if bits < 8:
            self._unpacked_nbytes += span if nbytes else 0
            if self._unpacked_nbytes > self._limits.max_bytes:
                raise TooLargeError(
                    f"unpacked to a byte per element, the tensors so far take over "
                    f"{self._limits.max_bytes} bytes: send fewer rows per frame"
                )
            return array_from_bytes(dtype, tuple(shape), self._bulk[offset : offset + nbytes])
        if not nbytes:
            return np.empty(shape, dtype_from_name(dtype))
        return np.ndarray(shape, dtype_from_name(dtype), self._bulk, offset)


def _call_in(id: str, head: dict[str, Any], reader: _Reader) -> Call:
    # The tensors come first, whatever else is wrong: the walk over the bulk must not stop.
    inputs = reader.tensors(head.pop("inputs", None))
    if not head:  # most calls say no more
        return Call(id, inputs)
    program = head.pop("program", None)
    if program is not None:
        reader.name(program, "program")
    timeout_ms = head.pop("timeout_ms", None)
    priority = head.pop("priority", 0)
    if timeout_ms is not None and (type(timeout_ms) is not int or not 0 <= timeout_ms <= MAX_MS):
        raise InputError(f"timeout_ms: expected whole milliseconds ≥ 0, got {timeout_ms!r:.64}")
    if type(priority) is not int:
        raise InputError(f"priority: expected a whole number, got {_kind(priority)}")
    if head:
        raise InputError(
            f"unknown field {', '.join(sorted(map(repr, head)))[:200]}: expected inputs, program, "
            "timeout_ms and priority"
        )
    return Call(id, inputs, program, None if timeout_ms is None else timeout_ms / 1000, priority)


def _result_in(id: str, head: dict[str, Any], reader: _Reader) -> Result | Failure:
    if "error" not in head:
        return Result(id, reader.tensors(head.get("outputs")))
    error = head["error"]
    if type(error) is not dict:
        raise FrameError(f"error: expected a map, got {_kind(error)}")
    code, message = error.get("code"), error.get("message")
    if type(code) is not str or type(message) is not str:
        raise FrameError("error: expected a code and a message")
    wait_ms = error.get("retry_after_ms")
    if wait_ms is not None and (type(wait_ms) is not int or not 0 <= wait_ms <= MAX_MS):
        raise FrameError("retry_after_ms: expected whole milliseconds ≥ 0")
    return Failure(id, code, message, None if wait_ms is None else wait_ms / 1000)
