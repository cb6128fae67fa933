"""Frame encoding: calls and results → buffers; large tensors are never copied."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgpack

from maas_sdk.errors import FrameError, InputError, TooLargeError
from maas_sdk.tensors import BITS, Array, array_to_bytes, dtype_name
from maas_sdk.wire.calls import Call, Failure, Result
from maas_sdk.wire.layout import (
    ALIGNMENT,
    BIN8,
    BIN32,
    BULK,
    CALLS,
    FIXARRAY5,
    KINDS,
    MAX_LENGTH,
    MAX_MS,
    PADDING,
    PREFIX,
    RESULTS,
    VERSION,
)

__all__ = ["encode_calls", "encode_results"]

# Tensors up to this size are gathered into one buffer: a copy of 16 KiB costs less than one more
# buffer to hand to the kernel.
_GATHER_BYTES: Final = 16 * 1024
# Longer messages are cut: what a caller has to know fits, and the head stays under its limit.
_MESSAGE_CHARACTERS: Final = 4000


class _Bulk:
    """Elements of tensors, laid one after another at multiples of 64, large ones by reference."""

    def __init__(self) -> None:
        self.buffers: list[bytes | bytearray | memoryview] = []
        self.nbytes = 0
        self._gathered = bytearray()

    def add(self, array: Array) -> list[Any]:
        """Append an array and return the tensor that stands for it in the head."""
        name = dtype_name(array.dtype)
        if array.nbytes <= _GATHER_BYTES and BITS[name] >= 8 and array.dtype.isnative:
            data: bytes | memoryview = array.tobytes()
        else:
            data = array_to_bytes(array)
        gathered = self._gathered
        gap = -self.nbytes % ALIGNMENT
        if gap:
            gathered += bytes(gap)
        offset = self.nbytes + gap
        size = len(data)
        if size <= _GATHER_BYTES:
            gathered += data
        else:
            self._flush()
            self.buffers.append(data)
        self.nbytes = offset + size
        return [name, array.shape, offset]

    def close(self) -> list[bytes | bytearray | memoryview]:
        self._flush()
        return self.buffers

    def _flush(self) -> None:
        if self._gathered:
            self.buffers.append(self._gathered)
            self._gathered = bytearray()


def encode_calls(calls: Iterable[Call]) -> list[bytes | memoryview]:
    """Return buffers to be sent one after another; large tensors are views of the callers' arrays.

    The arrays must not change until the buffers are sent.

    Raises:
        InputError: an array of a dtype that cannot travel, a negative or endless timeout; the
            message names the call.
        FrameError: two calls with the same id, or an id that is no string.
        TooLargeError: 4 GiB or more.
    """
    return _encode(CALLS, calls, _call_out)


def encode_results(results: Sequence[Result | Failure]) -> list[bytes | memoryview]:
    """Return the buffers of a reply; as ``encode_calls``."""
    return _encode(RESULTS, results, _result_out)


def _encode(
    kind: int, items: Iterable[Any], write: Callable[[Any, _Bulk], dict[str, Any]]
) -> list[bytes | memoryview]:
    bulk = _Bulk()
    heads = []
    for item in items:
        if type(item.id) is not str:
            raise FrameError(f"expected a string as id, got {item.id!r}")
        try:
            heads.append(write(item, bulk))
        except InputError as error:
            raise InputError(f"call {item.id!r}: {error}", call_id=item.id) from error
    if len({head["id"] for head in heads}) != len(heads):
        raise FrameError(f"two {KINDS[kind]} of a frame have the same id")
    head = msgpack.packb(heads)
    buffers = bulk.close()
    if max(len(head), bulk.nbytes) > MAX_LENGTH:
        raise TooLargeError(
            f"a frame holds less than 4 GiB, {bulk.nbytes} bytes of tensors came; "
            "send fewer calls per frame"
        )
    before = PREFIX.size + len(head) + PADDING.size + BULK.size
    padding = -before % ALIGNMENT
    start = b"".join(
        (
            PREFIX.pack(FIXARRAY5, VERSION, kind, BIN32, len(head)),
            head,
            PADDING.pack(BIN8, padding),
            bytes(padding),
            BULK.pack(BIN32, bulk.nbytes),
        )
    )
    return [start, *(memoryview(buffer) for buffer in buffers)]


def _call_out(call: Call, bulk: _Bulk) -> dict[str, Any]:
    head: dict[str, Any] = {"id": call.id, "inputs": _tensors_out(call.inputs, bulk)}
    if call.program is not None:
        head["program"] = call.program
    if call.timeout_s is not None:
        head["timeout_ms"] = _milliseconds("timeout_s", call.timeout_s)
    if call.priority:
        head["priority"] = call.priority
    return head


def _result_out(result: Result | Failure, bulk: _Bulk) -> dict[str, Any]:
    if isinstance(result, Result):
        return {"id": result.id, "outputs": _tensors_out(result.outputs, bulk)}
    error: dict[str, Any] = {"code": result.code, "message": result.message[:_MESSAGE_CHARACTERS]}
    if result.retry_after_s is not None:
        error["retry_after_ms"] = _milliseconds("retry_after_s", result.retry_after_s)
    return {"id": result.id, "error": error}


def _tensors_out(arrays: Mapping[str, Array], bulk: _Bulk) -> dict[str, list[Any]]:
    return {name: bulk.add(array) for name, array in arrays.items()}


def _milliseconds(name: str, seconds: float) -> int:
    if not 0 <= seconds * 1000 <= MAX_MS:
        raise InputError(f"{name}: expected seconds from 0 up, got {seconds}")
    return math.ceil(seconds * 1000)
