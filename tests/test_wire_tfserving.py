"""TensorFlow Serving's JSON: its documented examples, its sentences, and numbers held to dtypes."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maas_sdk.errors import InputError, MaasError, NotFoundError, TooLargeError, WireError
from maas_sdk.tensors import Signature, TensorSpec
from maas_sdk.wire.tfserving import (
    PredictRequest,
    decode_predict,
    encode_predict,
)
from maas_sdk.wire.tfserving_metadata import TensorInfo, metadata_body, read_tensors, status_body


def signature(**inputs: str) -> Signature:
    """Inputs of any rank; ranks are the engine's to check."""
    specs = {name: TensorSpec(dtype=dtype, shape=(None,)) for name, dtype in inputs.items()}
    return Signature(inputs=specs, outputs={})


def decode(document: object, **inputs: str) -> PredictRequest:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return decode_predict(body, lambda _: signature(**inputs))


# ---- requests ----


def test_rows_of_one_input() -> None:
    """With one input, a row is the value itself."""
    request = decode({"instances": [[1, 2], [3, 4.5]]}, x="float32")
    assert request.row_format
    assert request.program is None
    np.testing.assert_array_equal(request.inputs["x"], np.array([[1, 2], [3, 4.5]], np.float32))
    assert request.inputs["x"].dtype == np.float32


def test_rows_of_several_inputs() -> None:
    """With several inputs, a row is an object."""
    rows = [{"ids": [1, 2], "on": True}, {"ids": [3, 4], "on": False}]
    inputs = decode({"instances": rows}, ids="int64", on="bool").inputs
    np.testing.assert_array_equal(inputs["ids"], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(inputs["on"], [True, False])


def test_columns() -> None:
    """In column format a single input may stand without its name."""
    for document in ({"inputs": [[1], [2]]}, {"inputs": {"x": [[1], [2]]}}):
        request = decode(document, x="float64")
        assert not request.row_format
        np.testing.assert_array_equal(request.inputs["x"], [[1.0], [2.0]])
    scalar = decode({"inputs": 3}, x="int8").inputs["x"]
    assert (scalar.shape, scalar.dtype) == ((), np.int8)


def test_the_program_is_asked_for_by_name() -> None:
    """``signature_name`` picks the program, and an unknown one is the lookup's error."""
    asked: list[str | None] = []

    def look_up(name: str | None) -> Signature:
        asked.append(name)
        if name == "nope":
            raise NotFoundError("no program 'nope'")
        return signature(x="int32")

    assert decode_predict(b'{"signature_name": "embed", "inputs": [1]}', look_up).program == "embed"
    assert decode_predict(b'{"signature_name": "", "inputs": [1]}', look_up).program is None
    with pytest.raises(NotFoundError, match="nope"):
        decode_predict(b'{"signature_name": "nope", "inputs": [1]}', look_up)
    assert asked == ["embed", None, "nope"]


def test_tokens_and_trailing_bytes() -> None:
    """NaN and Infinity are read, and so is a document with something after it."""
    values = decode(b' {"instances": [NaN, Infinity, -Infinity]} tail', x="float32").inputs["x"]
    np.testing.assert_array_equal(values, np.array([np.nan, np.inf, -np.inf], np.float32))


@pytest.mark.parametrize(
    "dtype",
    ["float16", "bfloat16", "float8_e4m3fn", "float64", "int4", "uint2", "int64", "uint64", "bool"],
)
def test_dtypes(dtype: str) -> None:
    """A number takes the dtype that the program wants."""
    value: object = [True, False] if dtype == "bool" else [0, 1]
    array = decode({"inputs": value}, x=dtype).inputs["x"]
    assert array.dtype.name == dtype
    assert array.astype(np.float32).tolist() == ([1, 0] if dtype == "bool" else [0, 1])


def test_whole_range_of_64_bits() -> None:
    """64-bit whole numbers do not pass through a double."""
    assert decode({"inputs": [2**63 - 1]}, x="int64").inputs["x"].tolist() == [2**63 - 1]
    assert decode({"inputs": [2**64 - 1]}, x="uint64").inputs["x"].tolist() == [2**64 - 1]


def test_no_rows_in_a_column() -> None:
    """An empty list is an empty tensor in column format."""
    assert decode({"inputs": []}, x="int8").inputs["x"].shape == (0,)
    assert decode({"inputs": [[], []]}, x="float32").inputs["x"].shape == (2, 0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"  \n", "JSON Parse error: The document is empty"),
        (b"{", "JSON Parse error: "),
        (b"\xff\xfe", "JSON Parse error: "),
        (b"[1]", "JSON body must be an object, got a list"),
        (b"{}", "Missing 'inputs' or 'instances' key"),
        (
            b'{"inputs": 1, "instances": [1]}',
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist",
        ),
        (b'{"signature_name": 3, "inputs": 1}', "'signature_name' key must be a string value."),
        (b'{"instances": 3}', "Expecting 'instances' value to be a list, got a whole number"),
        (b'{"instances": []}', "no values for 'instances'"),
        (b'{"inputs": ' + b"9" * 5000 + b"}", "JSON Parse error: "),
    ],
)
def test_not_a_predict_request(body: bytes, message: str) -> None:
    """What TensorFlow Serving answers with 400 is ours too, in its words where it has some."""
    with pytest.raises(WireError) as caught:
        decode(body, x="float32")
    assert message in caught.value.message


def test_deep_nesting() -> None:
    """Lists nested deeper than any tensor are refused, and so are those that no parser reads."""
    for depth in (33, 100_000):
        with pytest.raises(TooLargeError, match="nested"):
            decode(b'{"inputs": ' + b"[" * depth + b"]" * depth + b"}", x="float32")


@pytest.mark.parametrize(
    ("document", "dtype", "message"),
    [
        ({"instances": [[1, 2], [3]]}, "float32", "instances[1]: expected a list of 2, got a list"),
        ({"instances": [[1, 2], 3]}, "float32", "instances[1]: expected a list of 2, got a whole"),
        ({"instances": [1, [2]]}, "float32", "instances[1]: expected a value, got a list of 1"),
        ({"instances": [[[1], [2]], [[3], [4, 5]]]}, "int8", "instances[1][1]: expected a list of"),
        (
            {"instances": [[1, 2], [3, "x"]]},
            "float32",
            "instances[1][1]: expected a number, got a s",
        ),
        ({"instances": [1, None]}, "float32", "instances[1]: expected a number, got null"),
        ({"instances": [1, True]}, "int32", "instances[1]: expected a whole number, got a boolean"),
        ({"instances": [1, 2.0]}, "int32", "instances[1]: expected a whole number, got a number w"),
        ({"instances": [True, 1]}, "bool", "instances[1]: expected true or false, got a whole"),
        ({"instances": [[1, 300]]}, "uint8", "instances[0][1]: 300 is out of range of uint8, 0 to"),
        ({"instances": [0, -1]}, "uint64", "instances[1]: -1 is out of range of uint64"),
        ({"instances": [2**63]}, "int64", "instances[0]: 9223372036854775808 is out of range"),
        ({"instances": [7, 8]}, "int4", "instances[1]: 8 is out of range of int4, -8 to 7"),
        ({"instances": [1.0, 1e39]}, "float32", "instances[1]: 1e+39 is out of range of float32"),
        ({"instances": [1, 10**400]}, "float64", "instances[1]: a number out of range of float64"),
        ({"instances": [1, 70000]}, "float16", "instances[1]: 70000 is out of range of float16"),
        ({"instances": [1]}, "complex64", "dtype complex64 has no form in JSON"),
        ({"instances": [{"x": 1}, 2]}, "int8", "instances[1]: expected an object like the others"),
        ({"instances": [{"x": 1}, {"y": 2}]}, "int8", "instances[1]: expected inputs ['x'], got "),
        ({"instances": [{"x": [1]}, {"x": ["s"]}]}, "int8", "instances[1].x[0]: expected a whole"),
        ({"inputs": {"z": 1}}, "int8", "inputs: expected inputs ['x'], got ['z']; missing: ['x']"),
        ({"inputs": "text"}, "int8", "inputs: expected a whole number, got a string"),
        ({"inputs": [1, 300]}, "int8", "inputs[1]: 300 is out of range of int8, -128 to 127"),
    ],
)
def test_values_that_do_not_fit(document: object, dtype: str, message: str) -> None:
    """A value that the program's dtype does not hold is refused with its place."""
    with pytest.raises(InputError) as caught:
        decode(document, x=dtype)
    assert message in caught.value.message


def test_several_inputs_need_names() -> None:
    """A program with several inputs cannot be called without their names."""
    with pytest.raises(InputError, match=r"instances\[0\]: expected an object with the inputs"):
        decode({"instances": [[1]]}, a="int8", b="int8")
    with pytest.raises(InputError, match="inputs: expected an object with"):
        decode({"inputs": [[1]]}, a="int8", b="int8")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("xyz"), inner),
    max_leaves=15,
)


@settings(max_examples=300, deadline=None)
@given(
    json_values,
    st.sampled_from(["instances", "inputs"]),
    st.sampled_from(["float32", "int4", "uint64", "bool", "float8_e4m3fn", "bfloat16"]),
)
def test_any_json(value: object, key: str, dtype: str) -> None:
    """Any JSON ends as arrays of the program's dtype or in an error of the family."""
    try:
        request = decode({key: value}, x=dtype)
    except MaasError:
        return
    assert request.inputs["x"].dtype.name == dtype


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100))
def test_any_bytes(body: bytes) -> None:
    """Any bytes end in an error of the family or as a request."""
    try:
        decode(body, x="float32")
    except MaasError:
        return


# ---- responses ----


def test_one_output() -> None:
    """One output stands without its name; whole floats keep their point."""
    y = {"y": np.array([[1, 2.5]], np.float32)}
    assert encode_predict(y, row_format=True) == b'{"predictions": [[1.0, 2.5]]}'
    assert encode_predict(y, row_format=False) == b'{"outputs": [[1.0, 2.5]]}'


def test_several_outputs() -> None:
    """Several outputs are objects: per row in row format, one in column format."""
    outputs = {"a": np.array([1, 2], np.int32), "b": np.array([[True], [False]])}
    assert json.loads(encode_predict(outputs, row_format=True)) == {
        "predictions": [{"a": 1, "b": [True]}, {"a": 2, "b": [False]}]
    }
    assert json.loads(encode_predict(outputs, row_format=False)) == {
        "outputs": {"a": [1, 2], "b": [[True], [False]]}
    }


def test_tokens_in_responses() -> None:
    """What is no number is written as TensorFlow Serving writes it."""
    body = encode_predict({"y": np.array([np.nan, np.inf, -np.inf])}, row_format=True)
    assert body == b'{"predictions": [NaN, Infinity, -Infinity]}'


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([1.5], ml_dtypes.bfloat16), [1.5]),
        (np.array([1.5], np.float16), [1.5]),
        (np.array([-3], ml_dtypes.int4), [-3]),
        (np.array([2**64 - 1], np.uint64), [2**64 - 1]),
        (np.zeros((0, 3), np.float32), []),
    ],
    ids=str,
)
def test_dtypes_in_responses(array: np.ndarray[Any, Any], expected: list[object]) -> None:
    """Dtypes that JSON has no idea of are written as the numbers they are."""
    assert json.loads(encode_predict({"y": array}, row_format=True)) == {"predictions": expected}


def test_rows_need_a_batch() -> None:
    """Outputs of different lengths, or without rows, have no row format."""
    for other in (np.zeros(3), np.zeros(())):
        with pytest.raises(InputError, match=r"has inconsistent batch size.*'inputs' instead"):
            encode_predict({"a": np.zeros(2), "b": other}, row_format=True)
    assert encode_predict({"b": np.zeros(())}, row_format=False) == b'{"outputs": 0.0}'


def test_complex_has_no_json() -> None:
    """Complex outputs are refused with the way out."""
    with pytest.raises(InputError, match="ask with msgpack"):
        encode_predict({"y": np.zeros(1, np.complex64)}, row_format=False)


# ---- about the model ----


def test_status() -> None:
    """The status of a model has TensorFlow Serving's shape; versions are strings."""
    assert status_body({"123": ("AVAILABLE", "OK", "")}) == {
        "model_version_status": [
            {
                "version": "123",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }


def test_metadata() -> None:
    """The metadata nests signature_def twice, as there, and sizes are strings."""
    half = Signature(
        inputs={"x": TensorSpec(dtype="float32", shape=(None, 1))},
        outputs={"y": TensorSpec(dtype="bfloat16", shape=(None,))},
    )
    body = metadata_body("half", "123", {"predict": half}, default_program="predict")
    assert body["model_spec"] == {"name": "half", "signature_name": "", "version": "123"}
    listed = body["metadata"]["signature_def"]["signature_def"]
    assert listed.keys() == {"predict", "serving_default"}
    assert listed["serving_default"] == {
        "inputs": {
            "x": {
                "dtype": "DT_FLOAT",
                "tensor_shape": {
                    "dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}],
                    "unknown_rank": False,
                },
                "name": "x:0",
            }
        },
        "outputs": {
            "y": {
                "dtype": "DT_BFLOAT16",
                "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
                "name": "y:0",
            }
        },
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }


def test_metadata_is_read_as_it_was_written() -> None:
    """Dtypes and shapes go there and back, but for the dtypes that TensorFlow has no name for."""
    known = TensorSpec(dtype="bfloat16", shape=(None, 3))
    unknown = TensorSpec(dtype="float8_e3m4", shape=())
    one = Signature(inputs={"a": known, "b": unknown}, outputs={"y": known})
    body = json.loads(json.dumps(metadata_body("m", "1", {"only": one})))
    assert read_tensors(body, None, "inputs", where="u") == {
        "a": TensorInfo("bfloat16", (None, 3)),
        "b": TensorInfo(None, ()),
    }
    assert read_tensors(body, "only", "outputs", where="u") == {
        "y": TensorInfo("bfloat16", (None, 3))
    }
    with pytest.raises(NotFoundError, match="u: no program 'embed'; the model has only"):
        read_tensors(body, "embed", "inputs", where="u")


@pytest.mark.parametrize("document", [None, [], {"metadata": 3}, metadata_body("m", "1", {})])
def test_what_is_no_metadata_is_said_so(document: Any) -> None:
    """Whatever JSON comes, the error is of our family and says where."""
    with pytest.raises(WireError, match="u: expected metadata in TensorFlow Serving's shape"):
        read_tensors(document, None, "inputs", where="u")
