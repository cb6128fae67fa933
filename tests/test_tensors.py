"""What a tensor is: every dtype by name, its bytes, and specs that say what is wrong."""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.errors import InputError
from maas_sdk.tensors import (
    BITS,
    Signature,
    TensorSpec,
    array_from_bytes,
    array_to_bytes,
    dtype_from_name,
    dtype_name,
    packed_nbytes,
)


def test_every_dtype_of_ml_dtypes_travels() -> None:
    """Whatever scalar types the installed ml_dtypes has, each has a row in BITS."""
    scalars = {
        name
        for name, value in vars(ml_dtypes).items()
        if isinstance(value, type) and issubclass(value, np.generic)
    }
    assert len(scalars) >= 15
    assert scalars <= BITS.keys()


@pytest.mark.parametrize("name", list(BITS))
def test_names_go_both_ways(name: str) -> None:
    """A name gives a little-endian dtype, which gives the name; its width is that of BITS."""
    dtype = dtype_from_name(name)
    assert dtype_name(dtype) == name
    assert dtype.byteorder in "=|<"
    assert dtype.itemsize * 8 == max(BITS[name], 8)


def test_unknown_names_are_refused() -> None:
    """An unknown name is answered with the known ones, an unknown dtype with a way out."""
    with pytest.raises(InputError, match="unknown dtype 'float33'; known are bcomplex32, bfloat16"):
        dtype_from_name("float33")
    with pytest.raises(InputError, match="unknown dtype"):
        packed_nbytes("float33", (1,))
    for array in (np.array(["x"]), np.array([None]), np.zeros(1, "M8[s]"), np.zeros(1, "i4,f4")):
        with pytest.raises(InputError, match=r"cannot travel.*\.astype\('float32'\)"):
            array_to_bytes(array)


def test_an_old_ml_dtypes_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dtype that the installed ml_dtypes lacks names the package to upgrade."""
    monkeypatch.delattr(ml_dtypes, "float8_e3m4")
    dtype_from_name.cache_clear()
    try:
        with pytest.raises(InputError, match="pip install --upgrade ml_dtypes"):
            dtype_from_name("float8_e3m4")
    finally:
        dtype_from_name.cache_clear()


def test_packing_is_as_described() -> None:
    """Element 0 sits in the lowest bits of byte 0, and the last byte is filled with zeros."""
    int4 = np.array([1, -2, 7], dtype_from_name("int4"))
    assert bytes(array_to_bytes(int4)).hex() == "e107"
    uint1 = np.array([1, 0, 0, 0, 0, 0, 0, 1, 1], dtype_from_name("uint1"))
    assert bytes(array_to_bytes(uint1)).hex() == "8101"
    float6 = np.array([0x3F, 0, 0, 0x3F], np.uint8).view(dtype_from_name("float6_e2m3fn"))
    assert bytes(array_to_bytes(float6)).hex() == "3f00fc"


@pytest.mark.parametrize("name", [name for name, bits in BITS.items() if bits < 8])
def test_packing_of_many_elements_is_that_of_few(name: str) -> None:
    """Elements are packed some at a time; where the seams are cannot be seen."""
    count = 3 * 2**16 + 5
    codes = np.arange(count).astype(np.uint8) & (2 ** BITS[name] - 1)
    data = bytes(array_to_bytes(codes.view(dtype_from_name(name))))
    number = sum(int(code) << i * BITS[name] for i, code in enumerate(codes[-13:]))
    offset = (count - 13) * BITS[name]
    assert int.from_bytes(data[offset // 8 :], "little") >> offset % 8 == number
    assert (array_from_bytes(name, (count,), data).view(np.uint8) == codes).all()


@given(st.sampled_from(list(BITS)), st.lists(st.integers(0, 5), max_size=4), st.binary(max_size=64))
def test_bytes_there_and_back(name: str, shape: list[int], noise: bytes) -> None:
    """Any bytes of the right number are an array, whose bytes they are."""
    size = packed_nbytes(name, shape)
    data = (noise * size + bytes(size))[:size]
    if name == "bool":
        data = bytes(value & 1 for value in data)
    unused = size * 8 - int(np.prod(shape)) * BITS[name]
    if size and unused:
        data = data[:-1] + bytes([data[-1] & (0xFF >> unused)])
    array = array_from_bytes(name, tuple(shape), data)
    assert array.shape == tuple(shape)
    assert array.dtype == dtype_from_name(name)
    assert bytes(array_to_bytes(array)) == data


def test_bytes_are_views() -> None:
    """Bytes of an array that already lies right are its own memory, and the other way."""
    array = np.arange(12, dtype=np.float32)
    data = array_to_bytes(array)
    assert np.shares_memory(np.frombuffer(data, np.uint8), array)
    assert np.shares_memory(array_from_bytes("float32", (3, 4), data), array)


def test_wrong_number_of_bytes() -> None:
    """The message has the dtype, the shape, and both numbers of bytes."""
    with pytest.raises(InputError, match=r"float32 and shape \[2\] takes 8 bytes, but 7 came"):
        array_from_bytes("float32", (2,), bytes(7))
    with pytest.raises(InputError, match="negative dimension"):
        array_from_bytes("float32", (-1,), b"")


SIGNATURE = Signature(
    inputs={
        "x": TensorSpec(dtype="float32", shape=(None, 3)),
        "scale": TensorSpec(dtype="int32", shape=()),
        "mask": TensorSpec(dtype="bool", shape=(None,)),
    },
    outputs={},
)
GOOD: dict[str, np.ndarray[Any, Any]] = {
    "x": np.zeros((2, 3), np.float32),
    "scale": np.array(1, np.int32),
    "mask": np.ones(2, np.bool_),
}


def test_a_signature_counts_rows() -> None:
    """What fits gives its number of rows, 0 included; without open dimensions that is 1."""
    assert SIGNATURE.check(GOOD) == 2
    empty = {**GOOD, "x": GOOD["x"][:0], "mask": GOOD["mask"][:0]}
    assert SIGNATURE.check(empty) == 0
    closed = Signature(inputs={"s": TensorSpec(dtype="int8", shape=(4,))}, outputs={})
    assert closed.check({"s": np.zeros(4, np.int8)}) == 1
    assert list(SIGNATURE.inputs) == ["mask", "scale", "x"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.zeros(1)}, r"unknown: \['y'\]"),
        ({"x": np.zeros((2, 3))}, r"'x': expected dtype float32, got float64.*astype\('float32'\)"),
        ({"x": np.zeros(3, np.float32)}, r"a single row needs a batch dimension: x\[None\]"),
        ({"x": np.zeros((2, 3, 1), np.float32)}, r"expected 2 dimensions, float32\[B, 3\]"),
        ({"x": np.zeros((2, 4), np.float32)}, r"dimension 1 must be 3, is 4"),
        ({"mask": np.ones(3, np.bool_)}, "inputs disagree about the batch"),
    ],
)
def test_a_signature_says_what_is_wrong(
    change: dict[str, np.ndarray[Any, Any]], message: str
) -> None:
    """What does not fit is named, with what was expected and what came."""
    with pytest.raises(InputError, match=message):
        SIGNATURE.check({**GOOD, **change})


def test_a_missing_input() -> None:
    """A missing input is named."""
    with pytest.raises(InputError, match=r"missing: \['mask', 'scale'\]"):
        SIGNATURE.check({"x": GOOD["x"]})


def test_specs() -> None:
    """A spec reads like a type, knows its bytes, and only its first dimension may be open."""
    spec = TensorSpec(dtype="int4", shape=(None, 3))
    assert str(spec) == "int4[B, 3]"
    assert spec.nbytes(rows=3) == 5
    with pytest.raises(InputError, match="dimension 1 must be a size"):
        TensorSpec(dtype="int8", shape=(1, None))
    with pytest.raises(InputError, match="unknown dtype"):
        TensorSpec(dtype="text", shape=())


@pytest.mark.parametrize("name", ["float32", "int64", "bool", "complex64"])
def test_numpys_dtypes_are_numpys_own(name):
    """A dtype by name is the very one that numpy has built in, which has the short paths."""
    if sys.byteorder == "little":
        assert dtype_from_name(name).isbuiltin == 1
