"""A caller's data → named arrays, and a program's inputs as the server describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from maas_sdk.errors import InputError, TransportError, WireError
from maas_sdk.tensors import Array, dtype_name
from maas_sdk.wire.tfserving_metadata import read_tensors

__all__ = ["ProgramInputs", "as_inputs", "program_inputs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramInputs:
    """The part of a program's signature that a client needs before it can send."""

    # Sorted.
    names: tuple[str, ...]
    # Those whose first dimension is B.
    batched: frozenset[str]


def as_inputs(x: object, signature: ProgramInputs | None, *, where: str = "") -> dict[str, Array]:
    """Return named arrays of a caller's data: a mapping as it is, anything else as the one input.

    Numbers and nested lists become arrays the way ``np.asarray`` does it; whether their dtype
    fits is the server's to say.

    Args:
        x: an array, what ``np.asarray`` makes one of, or a mapping from name to such.
        signature: needed unless ``x`` is a mapping.
        where: for messages: which item of many.

    Raises:
        InputError: no array can be made, its dtype cannot travel, or a bare array was given to a
            program of several inputs.
    """
    prefix = f"{where}: " if where else ""
    if isinstance(x, Mapping):
        if not x or not all(isinstance(name, str) for name in x):
            raise InputError(
                f"{prefix}expected a mapping from input names to arrays, got keys {list(x)}"
            )
        return {name: _as_array(value, f"{prefix}input {name!r}") for name, value in x.items()}
    assert signature is not None, "the session asks for it before it hands over a bare array"
    if len(signature.names) != 1:
        example = ", ".join(f"{name!r}: …" for name in signature.names)
        raise InputError(
            f"{prefix}the program has {len(signature.names)} inputs; name the arrays: {{{example}}}"
        )
    return {signature.names[0]: _as_array(x, f"{prefix}input {signature.names[0]!r}")}


def _as_array(value: object, where: str) -> Array:
    try:
        array: Array = np.asarray(value)
        dtype_name(array.dtype)
    except InputError as error:
        raise InputError(f"{where}: {error.message}") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: not an array: {error}") from error
    return array


def program_inputs(metadata: Any, program: str | None, *, url: str) -> ProgramInputs:
    """Read a program's inputs in the model's metadata, which has TensorFlow Serving's shape.

    Args:
        metadata: the JSON document.
        program: None for the one that answers when none is named.
        url: where it came from, for messages.

    Raises:
        NotFoundError: no such program.
        TransportError: not metadata.
    """
    try:
        inputs = read_tensors(metadata, program, "inputs", where=url)
    except WireError as error:
        raise TransportError(
            f"{error.message}; name the inputs, predict({{'name': x}}), to do without"
        ) from error
    return ProgramInputs(
        names=tuple(sorted(inputs)),
        batched=frozenset(name for name, info in inputs.items() if info.shape[:1] == (None,)),
    )
