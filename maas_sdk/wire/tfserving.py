"""TensorFlow Serving's REST v1 in JSON: request body → arrays, arrays → response body.

Source: TensorFlow Serving's ``api_rest.md`` and the code behind it (``json_tensor.cc``,
``http_rest_api_util.cc``), which decides where they differ. Two ways to write the same tensors:

    row format       {"instances": [row, row, …]}  →  {"predictions": [row, row, …]}
    column format    {"inputs": tensor | {name: tensor}}  →  {"outputs": tensor | {name: tensor}}

In row format a row is the value itself where a program has one input, an object of values by name
where it has several. ``NaN``, ``Infinity`` and ``-Infinity`` are tokens both ways, as there.

The rule: where TensorFlow Serving says no, so does this, with its sentence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from maas_sdk.errors import InputError, TooLargeError, WireError
from maas_sdk.tensors import Array, Signature, TensorSpec
from maas_sdk.wire.json_tensor import array_from_json, array_to_json, json_kind

__all__ = [
    "CONTENT_TYPE",
    "PredictRequest",
    "decode_predict",
    "encode_predict",
    "metadata_body",
    "status_body",
]

CONTENT_TYPE: Final = "application/json"

# TensorFlow's DataType of each dtype that it knows, for the metadata.
_TF_DTYPES: Final = {
    "float32": "DT_FLOAT",
    "float64": "DT_DOUBLE",
    "float16": "DT_HALF",
    "bfloat16": "DT_BFLOAT16",
    "int8": "DT_INT8",
    "int16": "DT_INT16",
    "int32": "DT_INT32",
    "int64": "DT_INT64",
    "uint8": "DT_UINT8",
    "uint16": "DT_UINT16",
    "uint32": "DT_UINT32",
    "uint64": "DT_UINT64",
    "bool": "DT_BOOL",
    "complex64": "DT_COMPLEX64",
    "complex128": "DT_COMPLEX128",
    "float8_e4m3fn": "DT_FLOAT8_E4M3FN",
    "float8_e5m2": "DT_FLOAT8_E5M2",
    "int4": "DT_INT4",
    "uint4": "DT_UINT4",
}
# The name that TensorFlow gives to the program that a request without a name means.
_DEFAULT_SIGNATURE: Final = "serving_default"


class PredictRequest(NamedTuple):
    """What a predict body asks for."""

    # ``signature_name`` as it came; None where it is absent or empty.
    program: str | None
    # By input name, dtypes as the program's signature has them.
    inputs: Mapping[str, Array]
    # Whether the request came as rows; the response has to be written alike.
    row_format: bool


def decode_predict(
    body: bytes | bytearray | memoryview, signatures: Callable[[str | None], Signature]
) -> PredictRequest:
    """Read the body of a predict request.

    Args:
        body: UTF-8 JSON. Its size is the caller's to limit: it is parsed whole.
        signatures: program name (None and ``serving_default``: the default one) → its signature;
            raises ``NotFoundError`` for a name it does not know.

    Raises:
        WireError: not JSON, or not a predict request (status 400, as TensorFlow Serving has it).
        InputError: values that do not fit the signature; the message names the instance.
        TooLargeError: lists nested deeper than the parser goes.
    """
    request = _parse(body)
    program = request.get("signature_name")
    if program is not None and type(program) is not str:
        raise WireError("'signature_name' key must be a string value.")
    has_rows, has_columns = "instances" in request, "inputs" in request
    if has_rows and has_columns:
        raise WireError(
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist"
        )
    if not has_rows and not has_columns:
        raise WireError("Missing 'inputs' or 'instances' key")
    specs = signatures(program or None).inputs
    if has_rows:
        inputs = _from_rows(request["instances"], specs)
    else:
        inputs = _from_columns(request["inputs"], specs)
    return PredictRequest(program=program or None, inputs=inputs, row_format=has_rows)


def encode_predict(outputs: Mapping[str, Array], *, row_format: bool) -> bytes:
    """Write the body of a predict response.

    Raises:
        InputError: row format, and the outputs do not share their first dimension (the same
            request in column format would be answered); or an output has complex numbers.
    """
    columns = {name: array_to_json(name, array) for name, array in outputs.items()}
    if not row_format:
        value = next(iter(columns.values())) if len(columns) == 1 else columns
        return json.dumps({"outputs": value}).encode()
    rows = {name: array.shape[0] if array.ndim else None for name, array in outputs.items()}
    if len(set(rows.values())) > 1 or None in rows.values():
        raise InputError(
            "outputs cannot be written as rows, one has inconsistent batch size: "
            f"{rows}; send the request with 'inputs' instead of 'instances'"
        )
    if len(columns) == 1:
        return json.dumps({"predictions": next(iter(columns.values()))}).encode()
    names = list(columns)
    predictions = [
        dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)
    ]
    return json.dumps({"predictions": predictions}).encode()


def status_body(versions: Mapping[str, tuple[str, str, str]]) -> dict[str, Any]:
    """The answer to ``GET /v1/models/<name>``.

    Args:
        versions: version → (state, error code, error message): state is one of START, LOADING,
            AVAILABLE, UNLOADING, END; the code is gRPC's name, "OK" for none.
    """
    return {
        "model_version_status": [
            {
                "version": version,
                "state": state,
                "status": {"error_code": code, "error_message": message},
            }
            for version, (state, code, message) in versions.items()
        ]
    }


def metadata_body(
    name: str,
    version: str,
    signatures: Mapping[str, Signature],
    *,
    default_program: str | None = None,
) -> dict[str, Any]:
    """The answer to ``GET /v1/models/<name>/metadata``.

    Args:
        name: of the model.
        version: of the model, as digits.
        signatures: by program name.
        default_program: also listed under TensorFlow's name for it, ``serving_default``.
    """
    listed = dict(signatures)
    if default_program is not None:
        listed.setdefault(_DEFAULT_SIGNATURE, signatures[default_program])
    return {
        "model_spec": {"name": name, "signature_name": "", "version": version},
        "metadata": {
            "signature_def": {
                "signature_def": {
                    program: {
                        "inputs": _tensor_infos(signature.inputs),
                        "outputs": _tensor_infos(signature.outputs),
                        "method_name": "tensorflow/serving/predict",
                        "defaults": {},
                    }
                    for program, signature in listed.items()
                }
            }
        },
    }


def _tensor_infos(specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    return {
        name: {
            "dtype": _TF_DTYPES.get(spec.dtype, "DT_INVALID"),
            "tensor_shape": {
                "dim": [{"size": str(-1 if d is None else d), "name": ""} for d in spec.shape],
                "unknown_rank": False,
            },
            "name": f"{name}:0",
        }
        for name, spec in specs.items()
    }


# ---- reading ----


def _parse(body: bytes | bytearray | memoryview) -> dict[str, Any]:
    try:
        text = bytes(body).decode().lstrip(" \t\r\n")
        if not text:
            raise WireError("JSON Parse error: The document is empty")
        # As there: reading stops where the document ends, bytes after it are no error.
        document, _ = json.JSONDecoder().raw_decode(text)
    except RecursionError as error:
        raise TooLargeError("JSON Parse error: lists nested too deeply") from error
    except ValueError as error:  # UnicodeDecodeError, JSONDecodeError, an int of 4,300 digits
        raise WireError(f"JSON Parse error: {error}") from error
    if type(document) is not dict:
        raise WireError(f"JSON body must be an object, got {json_kind(document)}")
    return document


def _from_rows(rows: object, specs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    if type(rows) is not list:
        raise WireError(f"Expecting 'instances' value to be a list, got {json_kind(rows)}")
    if not rows:
        raise WireError("no values for 'instances': expected a non-empty list")
    if not any(type(row) is dict for row in rows):
        if len(specs) != 1:
            raise InputError(
                f"instances[0]: expected an object with the inputs {sorted(specs)}, "
                f"got {json_kind(rows[0])}"
            )
        (name,) = specs
        return {name: array_from_json(rows, specs[name], "instances")}
    for index, row in enumerate(rows):
        if type(row) is not dict:
            raise InputError(
                f"instances[{index}]: expected an object like the others, got {json_kind(row)}"
            )
        _check_names(row, specs, f"instances[{index}]")
    return {
        name: array_from_json([row[name] for row in rows], spec, "instances", f".{name}")
        for name, spec in specs.items()
    }


def _from_columns(value: object, specs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    if type(value) is dict:
        _check_names(value, specs, "inputs")
        return {
            name: array_from_json(value[name], spec, f"inputs.{name}")
            for name, spec in specs.items()
        }
    if len(specs) != 1:
        raise InputError(f"inputs: expected an object with {sorted(specs)}, got {json_kind(value)}")
    (name,) = specs
    return {name: array_from_json(value, specs[name], "inputs")}


def _check_names(found: dict[str, Any], specs: Mapping[str, TensorSpec], where: str) -> None:
    if found.keys() != specs.keys():
        missing, unknown = sorted(specs.keys() - found.keys()), sorted(found.keys() - specs.keys())
        raise InputError(
            f"{where}: expected inputs {sorted(specs)}, got {sorted(found)}"
            + (f"; missing: {missing}" if missing else "")
            + (f"; unknown: {unknown}" if unknown else ""),
            missing=missing,
            unknown=unknown,
        )
