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
from maas_sdk.tensors import Array, Signature, TensorSpec, check_names
from maas_sdk.wire.json_tensor import array_from_json, array_to_json, json_kind

__all__ = [
    "CONTENT_TYPE",
    "PredictRequest",
    "decode_predict",
    "encode_predict",
]

CONTENT_TYPE: Final = "application/json"


class PredictRequest(NamedTuple):
    """Contents of a predict request's body."""

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
        check_names(specs, row, where=f"instances[{index}]: ")
    return {
        name: array_from_json([row[name] for row in rows], spec, "instances", f".{name}")
        for name, spec in specs.items()
    }


def _from_columns(value: object, specs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    if type(value) is dict:
        check_names(specs, value, where="inputs: ")
        return {
            name: array_from_json(value[name], spec, f"inputs.{name}")
            for name, spec in specs.items()
        }
    if len(specs) != 1:
        raise InputError(f"inputs: expected an object with {sorted(specs)}, got {json_kind(value)}")
    (name,) = specs
    return {name: array_from_json(value, specs[name], "inputs")}
