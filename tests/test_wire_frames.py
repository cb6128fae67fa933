"""The msgpack dialect: what goes in comes out, and what is not a frame is refused unread.

The golden frames are written anew by:  python tests/test_wire_frames.py
"""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maas_sdk.errors import (
    FrameError,
    InputError,
    OverloadedError,
    TooLargeError,
    WireError,
)
from maas_sdk.tensors import BITS, dtype_from_name
from maas_sdk.wire.frames import (
    ALIGNMENT,
    Call,
    Failure,
    FrameLimits,
    Result,
    decode_calls,
    decode_results,
    encode_calls,
    encode_results,
)

GOLDEN = Path(__file__).parent / "golden" / "wire"


def codes(name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """An array of a dtype with many different elements, from their codes."""
    dtype = dtype_from_name(name)
    count = int(np.prod(shape))
    if BITS[name] < 8:
        raw = (np.arange(count) * 7 % 2 ** BITS[name]).astype(np.uint8)
    elif name == "bool":
        raw = (np.arange(count) % 3 == 0).astype(np.uint8)
    else:
        raw = (np.arange(count * dtype.itemsize) * 37 % 251).astype(np.uint8)
    return raw.view(dtype).reshape(shape)


def same(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    """Same dtype, shape and bits, NaNs included."""
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and left.tobytes() == right.tobytes()
    )


def frame_of_calls(*calls: Call) -> bytes:
    return b"".join(encode_calls(calls))


def golden_frames() -> dict[str, bytes]:
    calls = [
        Call("a", {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}),
        Call(
            "b",
            {"ids": np.array([[1, -2]], np.int64), "mask": codes("int4", (1, 5))},
            program="embed",
            timeout_s=1.5,
            priority=-3,
        ),
    ]
    results = [
        Result("a", {"y": codes("bfloat16", (2, 2))}),
        Failure("b", "overloaded", "too many calls wait", 0.25),
    ]
    dtypes = [Call(name, {"x": codes(name, (3, 3))}) for name in BITS]
    return {
        "calls": b"".join(encode_calls(calls)),
        "results": b"".join(encode_results(results)),
        "no_calls": b"".join(encode_calls([])),
        "every_dtype": b"".join(encode_calls(dtypes)),
    }


# ---- the promise of the format ----


@pytest.mark.parametrize("name", sorted(golden_frames()))
def test_golden(name: str) -> None:
    """A frame written by any release has the very bytes that were written down."""
    assert golden_frames()[name] == (GOLDEN / f"{name}.bin").read_bytes()


def test_golden_is_read() -> None:
    """A frame that was written down is read as what was put in."""
    first, second = decode_calls((GOLDEN / "calls.bin").read_bytes())
    assert isinstance(first, Call)
    assert isinstance(second, Call)
    assert same(first.inputs["x"], np.arange(6, dtype=np.float32).reshape(2, 3))
    assert (second.program, second.timeout_s, second.priority) == ("embed", 1.5, -3)
    assert same(second.inputs["mask"], codes("int4", (1, 5)))
    answer, failure = decode_results((GOLDEN / "results.bin").read_bytes())
    assert isinstance(answer, Result)
    assert same(answer.outputs["y"], codes("bfloat16", (2, 2)))
    assert failure == Failure("b", "overloaded", "too many calls wait", 0.25)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 0, 4), (70_001,)], ids=str)
@pytest.mark.parametrize("name", list(BITS))
def test_every_dtype_survives(name: str, shape: tuple[int, ...]) -> None:
    """Every dtype comes back with its name, shape and bits: scalars, empty, small and large."""
    array = codes(name, shape)
    (call,) = decode_calls(frame_of_calls(Call("a", {"before": array, "x": array})))
    assert isinstance(call, Call)
    assert same(call.inputs["x"], array)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=">i4").reshape(3, 4),
        np.arange(100_000, dtype=">f8"),
        np.arange(24, dtype=np.int16).reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(100, dtype=np.float32)[::-3],
        np.asfortranarray(np.arange(40_000, dtype=np.float32).reshape(100, 400)),
        np.broadcast_to(np.float32(7), (3, 4)),
        np.array([np.nan, np.inf, -np.inf, -0.0], np.float32),
    ],
    ids=["big-endian", "large big-endian", "transposed", "strided", "fortran", "broadcast", "nan"],
)
def test_any_layout(array: np.ndarray[Any, Any]) -> None:
    """Whatever an array's strides or byte order, its values arrive, little-endian."""
    (call,) = decode_calls(frame_of_calls(Call("a", {"x": array})))
    assert isinstance(call, Call)
    np.testing.assert_array_equal(call.inputs["x"], array)
    assert call.inputs["x"].dtype == array.dtype.newbyteorder("<")


def test_nothing_is_copied() -> None:
    """Encoding hands out views of a large array, decoding a read-only view of the body."""
    array = np.arange(1 << 20, dtype=np.float32)
    buffers = encode_calls([Call("a", {"x": array})])
    assert any(np.shares_memory(np.frombuffer(buffer, np.uint8), array) for buffer in buffers)
    body = np.frombuffer(bytearray(b"".join(buffers)), np.uint8)
    (call,) = decode_calls(body.data)
    assert isinstance(call, Call)
    assert np.shares_memory(call.inputs["x"], body)
    assert not call.inputs["x"].flags.writeable


def test_tensors_are_aligned() -> None:
    """Each tensor starts at a multiple of 64 from the frame's start, whatever stands before it."""
    for length in range(70):
        frame = np.frombuffer(
            frame_of_calls(Call("i" * length, {"x": codes("int8", (3,)), "y": np.ones(5)})),
            np.uint8,
        )
        (call,) = decode_calls(frame.data)
        assert isinstance(call, Call)
        for array in call.inputs.values():
            distance = array.__array_interface__["data"][0] - frame.__array_interface__["data"][0]
            assert distance % ALIGNMENT == 0


def test_a_frame_is_one_msgpack_value() -> None:
    """Any msgpack library can look into a frame."""
    version, kind, head, padding, bulk = msgpack.unpackb(golden_frames()["calls"])
    assert (version, kind) == (1, 0)
    assert not padding.strip(b"\0")
    (first, second) = msgpack.unpackb(head)
    assert first == {"id": "a", "inputs": {"x": ["float32", [2, 3], 0]}}
    assert second["timeout_ms"] == 1500
    np.testing.assert_array_equal(np.frombuffer(bulk, "<f4", 6), np.arange(6))


def test_timeouts_are_rounded_up() -> None:
    """A timeout of a fraction of a millisecond does not become none at all."""
    (call,) = decode_calls(frame_of_calls(Call("a", {}, timeout_s=0.0001)))
    assert isinstance(call, Call)
    assert call.timeout_s == 0.001


def test_failures_carry_errors() -> None:
    """An error goes to the other side and comes back as the same class, without a foreign text."""
    error = OverloadedError("busy", retry_after_s=2.0)
    sent = [Failure.from_error("a", error), Failure.from_error("b", KeyError("/secret"))]
    shed, internal = decode_results(b"".join(encode_results(sent)))
    assert isinstance(shed, Failure)
    assert isinstance(internal, Failure)
    raised = shed.to_error()
    assert isinstance(raised, OverloadedError)
    assert (raised.message, raised.retry_after_s) == ("busy", 2.0)
    assert internal.code == "internal"
    assert internal.message == "internal error: KeyError"


# ---- refused when written ----


@pytest.mark.parametrize(
    ("calls", "error", "message"),
    [
        ([Call("q", {"x": np.array(["text"])})], InputError, "call 'q': an array of dtype <U4"),
        ([Call("q", {"x": np.array([None])})], InputError, "cannot travel"),
        ([Call("q", {}, timeout_s=-1)], InputError, "call 'q': timeout_s: expected seconds"),
        ([Call("q", {}, timeout_s=float("inf"))], InputError, "got inf"),
        ([Call("q", {}, timeout_s=float("nan"))], InputError, "got nan"),
        ([Call("q", {}), Call("q", {})], FrameError, "have the same id"),
        ([Call(7, {})], FrameError, "expected a string as id, got 7"),  # type: ignore[arg-type]
    ],
)
def test_refused_when_written(calls: list[Call], error: type[Exception], message: str) -> None:
    """What could not be read is not written, and the message names the call."""
    with pytest.raises(error, match=message):
        encode_calls(calls)


# ---- refused when read ----


def build(head: object, bulk: bytes = b"", *, kind: int = 0, version: int = 1) -> bytes:
    """A frame around any head, with lengths that are right."""
    packed = head if isinstance(head, bytes) else msgpack.packb(head)
    padding = -(15 + len(packed)) % ALIGNMENT
    return b"".join(
        (
            struct.pack(">BBBBI", 0x95, version, kind, 0xC6, len(packed)),
            packed,
            struct.pack(">BB", 0xC4, padding),
            bytes(padding),
            struct.pack(">BI", 0xC6, len(bulk)),
            bulk,
        )
    )


def one_tensor(*tensor: object, bulk: bytes = bytes(256)) -> bytes:
    return build([{"id": "q", "inputs": {"x": list(tensor)}}], bulk)


LIMITS = FrameLimits(
    max_bytes=100_000,
    max_calls=20,
    max_tensors=10,
    max_rank=8,
    max_name_bytes=50,
    max_head_bytes=1000,
)


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        (b"", FrameError, "at least 8 bytes, 0 came"),
        (b'{"instances": [[1, 2]]}', FrameError, "not a frame: it starts with 7b 22 69 6e"),
        (msgpack.packb({"x": [1] * 20}), FrameError, "not a frame"),
        (build([], version=2), FrameError, "version 2; this side reads version 1"),
        (build([], kind=1), FrameError, "expected a frame of calls, got results"),
        (build([], kind=9), FrameError, "got kind 9"),
        (build([]) + b"\0", FrameError, "declares 0 bytes of tensors, 1 came"),
        (build({}), FrameError, "the head is not a msgpack array"),
        (build(b""), FrameError, "the head is not a msgpack array"),
        (build(b"\x91"), FrameError, "entry 0 of the head"),
        (build(b"\x90\x90"), FrameError, "1 bytes after the last entry"),
        (build(b"\x91\xc1"), FrameError, "entry 0 of the head"),
        (build(b"\x91\x81\xa2\xff\xff\x00"), FrameError, "entry 0 of the head"),
        (build([3]), FrameError, "expected a map, got int"),
        (build([{"inputs": {}}]), FrameError, "id: expected a string"),
        (build([{"id": 3}]), FrameError, "id: expected a string, got int"),
        (build([{"id": "a", "inputs": {}}, {"id": "a", "inputs": {}}]), FrameError, "id 'a'"),
        (build([{"id": "a"}]), FrameError, "expected a map of tensors, got NoneType"),
        (build([{"id": "a", "inputs": {}, "program": 3}]), FrameError, "program"),
        (one_tensor("float32", [2]), FrameError, r"calls\[0\] 'q': tensor 'x': expected \[dtype"),
        (one_tensor("float32", 2, 0), FrameError, "expected .string, array of sizes, offset"),
        (one_tensor("float32", [2.0], 0), FrameError, "expected sizes ≥ 0"),
        (one_tensor("float32", [-2], 0), FrameError, "expected sizes ≥ 0 in the shape, got -2"),
        (one_tensor("float32", [True], 0), FrameError, "expected sizes ≥ 0"),
        (one_tensor("float32", [2], 1), FrameError, "offset 1 is not a multiple of 64"),
        (one_tensor("float32", [2], -64), FrameError, "offset -64"),
        (one_tensor("float32", [2], 512), FrameError, "offset 512"),
        (one_tensor("float32", [2], 2**63), FrameError, "offset"),
        (one_tensor("float32", [65], 0), FrameError, "takes 260 bytes at offset 0, the bulk has"),
        (one_tensor("float32", [2**40], 0), FrameError, f"takes {2**42} bytes"),
        (one_tensor("int4", [2**64 - 1] * 8, 0), FrameError, "takes"),
        (
            one_tensor("uint1", [200_000], 0, bulk=bytes(25_000)),
            TooLargeError,
            "unpacked to a byte per element, the tensors so far take over 100000 bytes",
        ),
        (one_tensor("float32", [0, 2**40, 2**40], 0), TooLargeError, "beyond addressing"),
        (build([{"id": "a", "inputs": {}}] * 21), TooLargeError, "21 calls, the limit is 20"),
        (build(b"\xdd\xff\xff\xff\xff"), TooLargeError, "4294967295 calls"),
        (build(b"\x91\xdd\xff\xff\xff\xff"), FrameError, "entry 0"),
        (build(b"\x91\xdf\xff\xff\xff\xff"), FrameError, "entry 0"),
        (build(b"\x91\xdb\xff\xff\xff\xff"), FrameError, "entry 0"),
        (build(b"\x91" * 5000), TooLargeError, "nested too deeply"),
        (build(b"\x91" * 900 + b"\x90"), FrameError, "expected a map, got list"),
        (build([{"id": "a", "inputs": {}, "z": "z" * 1000}]), TooLargeError, "limit is 1000"),
        (build([{"id": "z" * 51, "inputs": {}}]), TooLargeError, "over 50 bytes"),
        (build([{"id": "é" * 30, "inputs": {}}]), TooLargeError, "over 50 bytes"),
        (
            build([{"id": "a", "inputs": {str(i): ["int8", [], 0] for i in range(11)}}]),
            TooLargeError,
            "max_map_len",
        ),
        (one_tensor("float32", [1] * 9, 0), TooLargeError, "max_array_len"),
        (build([], bytes(100_001)), TooLargeError, "over the limit of 100000"),
    ],
)
def test_refused_when_read(frame: bytes, error: type[WireError], message: str) -> None:
    """Each way to break a frame has its own sentence, and none costs memory."""
    tracemalloc.start()
    try:
        with pytest.raises(error, match=message):
            decode_calls(frame, LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (FrameLimits(max_tensors=1), "2 tensors, the limit is 1"),
        (FrameLimits(max_rank=1), "2 dimensions, the limit is 1"),
        (FrameLimits(max_calls=1, max_head_bytes=20), "a head of 39 bytes is over the limits"),
    ],
)
def test_small_limits(limits: FrameLimits, message: str) -> None:
    """Limits hold below what a frame's own fields need."""
    tensor = ["int8", [0, 0], 0]
    with pytest.raises(TooLargeError, match=message):
        decode_calls(build([{"id": "q", "inputs": {"x": tensor, "y": tensor}}]), limits)


def test_four_gib_are_refused_when_written() -> None:
    """Lengths have four bytes; what they cannot say is refused, with the way out."""
    array = np.zeros(64 << 20, np.uint8)
    calls = [Call(str(index), {"x": array}) for index in range(64)]
    with pytest.raises(TooLargeError, match=r"less than 4 GiB.*fewer calls per frame"):
        encode_calls(calls)
    assert len(encode_calls(calls[:-1])) == 64


def test_no_byte_is_claimed_twice() -> None:
    """Two tensors cannot lie on the same bytes, so a small body cannot become large inputs."""
    tensor = ["uint8", [200], 0]
    frame = build([{"id": "q", "inputs": {"x": tensor, "y": tensor}}], bytes(256))
    with pytest.raises(FrameError, match="offset 0 is not a multiple of 64 between 200, the end"):
        decode_calls(frame)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"inputs": {"x": ["float1", [2], 0]}},
            "tensor 'x': unknown dtype 'float1'; known are bco",
        ),
        ({"inputs": {"x": ["object", [2], 0]}}, "unknown dtype 'object'"),
        ({"timeout_ms": -1}, "timeout_ms: expected whole milliseconds ≥ 0, got -1"),
        ({"timeout_ms": 1.5}, "got 1.5"),
        ({"timeout_ms": 2**60}, "timeout_ms"),
        ({"priority": "high"}, "priority: expected a whole number, got str"),
        ({"timeuot_ms": 3}, "unknown field 'timeuot_ms'"),
    ],
)
def test_one_bad_call_disturbs_no_other(change: dict[str, object], message: str) -> None:
    """A call that cannot be meant fails by its id; the calls around it are read."""
    good = {"inputs": {"x": ["int8", [3], 0]}}
    after = {"inputs": {"x": ["int8", [3], 64]}}
    head = [{"id": "bad", **good, **change}, {"id": "good", **after}]
    bad, other = decode_calls(build(head, bytes(64) + b"\1\2\3"))
    assert isinstance(bad, Failure)
    assert (bad.id, bad.code) == ("bad", "invalid_input")
    assert message in bad.message
    assert isinstance(other, Call)
    np.testing.assert_array_equal(other.inputs["x"], [1, 2, 3])


def test_results_of_a_newer_server() -> None:
    """Fields that this release does not know are passed over in results."""
    head = [
        {"id": "a", "outputs": {}, "trace": [1]},
        {"id": "b", "error": {"code": "new_code", "message": "m", "more": 1}},
    ]
    answer, failure = decode_results(build(head, kind=1))
    assert answer == Result("a", {})
    assert failure == Failure("b", "new_code", "m")


@pytest.mark.parametrize(
    "error", [3, {}, {"code": "c"}, {"code": "c", "message": "m", "retry_after_ms": -1}], ids=str
)
def test_a_garbled_error_is_a_broken_frame(error: object) -> None:
    """An error without code and message, or with a wait that is none, is no frame."""
    with pytest.raises(FrameError, match=r"results\[0\] 'a': "):
        decode_results(build([{"id": "a", "error": error}], kind=1))


# ---- junk ----

BOTH: list[tuple[str, Callable[[bytes], object]]] = [
    ("calls", decode_calls),
    ("results", decode_results),
    ("every_dtype", decode_calls),
]


@pytest.mark.parametrize(("name", "decode"), BOTH)
def test_cut_at_each_byte(name: str, decode: Callable[[bytes], object]) -> None:
    """A frame cut anywhere is refused as cut, never half read."""
    frame = golden_frames()[name]
    for end in range(len(frame)):
        with pytest.raises(FrameError):
            decode(frame[:end])


@pytest.mark.parametrize(("name", "decode"), BOTH)
def test_each_bit_flipped(name: str, decode: Callable[[bytes], object]) -> None:
    """A flipped bit gives another frame or one of the two errors, nothing else."""
    frame = bytearray(golden_frames()[name])
    for bit in range(8 * min(len(frame), 400)):
        frame[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(FrameError, TooLargeError):
            decode(bytes(frame))
        frame[bit // 8] ^= 1 << bit % 8


msgpack_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.sampled_from(["id", "inputs", "outputs", "error", *BITS]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "inputs", "outputs", "error", "program", "priority", "x"]), inner
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_junk(data: bytes) -> None:
    """Bytes from anywhere, bare or as a head, end in one of the two errors or as a frame."""
    for frame in (data, build(data), build(b"\x91" + data, bytes(128)), build(data, kind=1)):
        for decode in (decode_calls, decode_results):
            with contextlib.suppress(FrameError, TooLargeError):
                decode(frame)


@settings(max_examples=300, deadline=None)
@given(st.lists(msgpack_values, max_size=3), st.binary(max_size=200))
def test_well_formed_junk(items: list[object], bulk: bytes) -> None:
    """Any msgpack values as head end in one of the two errors, or as calls and failures."""
    for kind, decode in ((0, decode_calls), (1, decode_results)):
        try:
            found = decode(build(items, bulk, kind=kind))
        except (FrameError, TooLargeError):
            continue
        assert all(isinstance(item, Call | Result | Failure) for item in found)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.builds(
            Call,
            st.uuids().map(str),
            st.dictionaries(
                st.text(max_size=20),
                st.builds(
                    codes,
                    st.sampled_from(sorted(BITS)),
                    st.lists(st.integers(0, 4), max_size=4).map(tuple),
                ),
                max_size=4,
            ),
            program=st.none() | st.text(max_size=20),
            timeout_s=st.none() | st.integers(0, 10**9).map(lambda ms: ms / 1000),
            priority=st.integers(-(2**31), 2**31),
        ),
        max_size=5,
        unique_by=lambda call: call.id,
    )
)
def test_round_trip(calls: list[Call]) -> None:
    """Any calls come back in order, with every field."""
    found = decode_calls(frame_of_calls(*calls))
    assert len(found) == len(calls)
    for sent, came in zip(calls, found, strict=True):
        assert isinstance(came, Call)
        assert (came.id, came.program, came.priority) == (sent.id, sent.program, sent.priority)
        assert came.timeout_s == pytest.approx(sent.timeout_s, abs=0.0011)
        assert came.inputs.keys() == sent.inputs.keys()
        assert all(same(came.inputs[name], array) for name, array in sent.inputs.items())


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for golden_name, golden_frame in golden_frames().items():
        (GOLDEN / f"{golden_name}.bin").write_bytes(golden_frame)
        print(f"{golden_name}.bin: {len(golden_frame)} bytes")
