"""Input and output files of a model: npy, npz, JSON and pictures.

What a file says is bent to the signature only where nothing is lost in meaning: a lone row gets its
batch dimension, float64 becomes the float that the model wants, a picture is scaled to the model's
size. Everything else is left to the model's own check, whose message names what differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maas_sdk.errors import ConfigError, InputError, StorageError
from maas_sdk.tables.images import IMAGE_SUFFIXES, image_mode, image_values, read_image
from maas_sdk.tables.numpy_file import read_arrays
from maas_sdk.tensors import Array, Signature, TensorSpec, dtype_from_name

__all__ = ["read_inputs", "write_outputs"]


def read_inputs(path: Path, signature: Signature, *, invert: bool = False) -> dict[str, Array]:
    """Return a file's arrays by input name.

    Args:
        path: .npy, .npz, a picture, or .json: ``{"instances": …}``, ``{"inputs": …}``, a list.
        signature: of the program that they are for.
        invert: for pictures: dark becomes high, as in models of ink on paper.

    Raises:
        InputError: no such file, not what its name says, or not for this program.
        ConfigError: a kind of file that is not known.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _from_json(path, signature)
    if suffix == ".npz":
        named = _from_npz(path, signature)
    elif suffix == ".npy":
        named = {_only_input(path, signature): _load(path)}
    elif suffix in IMAGE_SUFFIXES:
        name = _only_input(path, signature)
        named = {name: _from_picture(path, signature.inputs[name], invert=invert)}
    else:
        raise ConfigError(
            f"{path}: expected a file that ends in .npy, .npz, .json or {', '.join(IMAGE_SUFFIXES)}"
        )
    return {
        name: _bend(array, signature.inputs[name]) if name in signature.inputs else array
        for name, array in named.items()
    }


def write_outputs(path: Path, outputs: Mapping[str, Array]) -> None:
    """Write outputs as an .npz, one entry per name.

    The format has no name for bfloat16 and its kin; they are written as float32, which holds them.

    Raises:
        ConfigError: the path does not end in .npz.
        StorageError: it cannot be written.
    """
    if path.suffix.lower() != ".npz":
        raise ConfigError(f"{path}: answers are written as .npz; give the file that ending")
    try:
        named: dict[str, Any] = {
            name: array.astype(np.float32) if array.dtype.kind == "V" else array
            for name, array in outputs.items()
        }
        np.savez(path, **named)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error


def _only_input(path: Path, signature: Signature) -> str:
    names = list(signature.inputs)
    if len(names) != 1:
        raise InputError(
            f"{path} holds one array, the program has inputs {', '.join(names)}: "
            "put them in an .npz under these names"
        )
    return names[0]


def _load(path: Path) -> Array:
    try:
        # A pickle may run code, and no array of numbers needs one.
        loaded: Array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a readable .npy file: {error}") from error
    return loaded


def _from_npz(path: Path, signature: Signature) -> dict[str, Array]:
    named = read_arrays(path)
    if len(named) == 1 and len(signature.inputs) == 1:
        # np.savez(path, x) calls its only array arr_0, which nobody meant as a name.
        return dict(zip(signature.inputs, named.values(), strict=True))
    return named


def _from_json(path: Path, signature: Signature) -> dict[str, Array]:
    import json

    from maas_sdk.wire.tfserving import decode_predict

    body = path.read_bytes()
    try:
        # A bare list is taken for rows, which TensorFlow Serving calls instances.
        if isinstance(json.loads(body), list):
            body = b'{"instances": ' + body + b"}"
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    return dict(decode_predict(body, lambda _: signature).inputs)


def _from_picture(path: Path, spec: TensorSpec, *, invert: bool) -> Array:
    """[1, H, W, C] or [1, H, W], as the spec has it; floats from 0 to 1, bytes from 0 to 255."""
    mode = image_mode(spec)
    if mode is None:
        raise InputError(f"{path}: the program takes {spec}, which is not a picture")
    height, width = (size or 0 for size in spec.shape[1:3])
    try:
        pixels = read_image(path, mode, (height, width), resize=True)
    except InputError as error:
        raise InputError(f"{path}: {error.message}") from error
    return image_values(pixels, spec, invert=invert)[None]


def _bend(array: Array, spec: TensorSpec) -> Array:
    # A single row; with two sizes missing it would be a guess.
    if array.ndim == len(spec.shape) - 1 and spec.shape[:1] == (None,):
        array = array[None]
    dtype = dtype_from_name(spec.dtype)
    if array.dtype != dtype and (
        # Never from float to integer. For NumPy bfloat16 and its kin are of kind V, no floats.
        np.can_cast(array.dtype, dtype, "same_kind") or (array.dtype.kind, dtype.kind) == ("f", "V")
    ):
        array = array.astype(dtype)
    return array
