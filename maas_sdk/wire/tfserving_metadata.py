"""Model metadata in TensorFlow Serving's REST v1: state, and signatures of the programs.

Written by a server and read by a client, here side by side, so that the two cannot part. TensorFlow
has no name for some dtypes; those travel as ``DT_INVALID`` and are read as None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from maas_sdk.errors import NotFoundError, WireError
from maas_sdk.tensors import Signature, TensorSpec

__all__ = ["TensorInfo", "metadata_body", "read_tensors", "status_body"]

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
_DTYPES: Final = {theirs: ours for ours, theirs in _TF_DTYPES.items()}
# The name that TensorFlow gives to the program that a request without a name means.
_DEFAULT_SIGNATURE: Final = "serving_default"


class TensorInfo(NamedTuple):
    """A server's description of one tensor."""

    # A name of ``tensors.BITS``; None where TensorFlow has none for it.
    dtype: str | None
    # None: any size.
    shape: tuple[int | None, ...]


def status_body(versions: Mapping[str, tuple[str, str, str]]) -> dict[str, Any]:
    """Return the answer to ``GET /v1/models/<name>``.

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
    """Return the answer to ``GET /v1/models/<name>/metadata``.

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


def read_tensors(
    document: Any, program: str | None, side: Literal["inputs", "outputs"], *, where: str
) -> dict[str, TensorInfo]:
    """Read a program's inputs or outputs, by name, in a body as ``metadata_body`` makes it.

    Args:
        document: the JSON document.
        program: None for the one that answers when none is named.
        side: which of the two.
        where: it came from, for messages.

    Raises:
        NotFoundError: no such program.
        WireError: not metadata.
    """
    try:
        programs = document["metadata"]["signature_def"]["signature_def"]
        if program is None:
            usual = [name for name in (_DEFAULT_SIGNATURE, "predict") if name in programs]
            program = (usual or list(programs))[0]
        if program not in programs:
            raise NotFoundError(
                f"{where}: no program {program!r}; the model has {', '.join(sorted(programs))}",
                program=program,
            )
        return {name: _read_info(info) for name, info in programs[program][side].items()}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise WireError(
            f"{where}: expected metadata in TensorFlow Serving's shape, got something else "
            f"({error!r})"
        ) from error


def _read_info(info: Any) -> TensorInfo:
    sizes = [int(dim["size"]) for dim in info["tensor_shape"].get("dim", [])]
    return TensorInfo(
        dtype=_DTYPES.get(info.get("dtype")),
        shape=tuple(None if size < 0 else size for size in sizes),
    )
