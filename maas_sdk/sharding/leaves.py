"""The parameters of a model as a flat list: path, shape, dtype and the axes their author named.

The rule it keeps: a parameter has one name, whichever library made the tree. Keys are joined by
"/"; the boxes that Flax puts around arrays (``nnx.Variable``, linen's ``Partitioned``) are no part
of the name. Only shapes are read, so a tree of ``jax.ShapeDtypeStruct`` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.core import meta

from maas_sdk.errors import InputError

__all__ = ["ParameterSpec", "leaves_of", "path_text"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterSpec:
    """One array of a tree."""

    # Such as "layers/0/attention/query/kernel".
    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    # The author's name of each dimension, out of the module's annotation; None: not annotated.
    axes: tuple[Any, ...] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array; a dtype of 4 bits takes half a byte per number."""
        return math.ceil(math.prod(self.shape) * _bits(self.dtype) / 8)


def leaves_of(tree: Any) -> list[ParameterSpec]:
    """Return the arrays (or shapes of arrays) of a pytree, in ``jax.tree.leaves``'s order.

    Raises:
        InputError: a leaf that has no shape and dtype.
    """
    found: list[ParameterSpec] = []
    for outer, box in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_box)[0]:
        axes = _annotation(box)
        for inner, value in _inside(box):
            path = path_text((*outer, *inner))
            if not hasattr(value, "shape") or not hasattr(value, "dtype"):
                raise InputError(
                    f"parameter {path!r}: expected an array or a jax.ShapeDtypeStruct, got "
                    f"{type(value).__name__}; make shapes with jax.eval_shape or nnx.eval_shape"
                )
            shape = tuple(int(size) for size in value.shape)
            fits = axes is not None and len(axes) == len(shape)
            found.append(
                ParameterSpec(
                    path=path, shape=shape, dtype=value.dtype, axes=axes if fits else None
                )
            )
    return found


def path_text(path: tuple[Any, ...]) -> str:
    """Join the keys of a path of ``jax.tree_util`` by "/"."""
    fields = ("key", "name", "idx")
    return "/".join(
        str(next((getattr(key, field) for field in fields if hasattr(key, field)), key))
        for key in path
    )


def _is_box(node: Any) -> bool:
    return isinstance(node, nnx.Variable | meta.AxisMetadata)


def _inside(box: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield a box's content with the path inside of it: () for an array."""
    if not _is_box(box):
        yield (), box
        return
    for path, value in jax.tree_util.tree_flatten_with_path(box)[0]:
        # The first key is the box's own field.
        yield path[1:], value


def _annotation(box: Any) -> tuple[Any, ...] | None:
    """Return dimensions' names: nnx's ``out_sharding`` (once ``sharding``), linen's ``names``."""
    if isinstance(box, nnx.Variable):
        metadata = box.get_metadata()
        axes = metadata.get("out_sharding") or metadata.get("sharding")
        axes = getattr(axes, "spec", axes)
    else:
        axes = getattr(box, "names", None)
    return None if not axes else tuple(axes)


def _bits(dtype: Any) -> int:
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return 64  # a random key of the usual kind
    name = np.dtype(dtype).name
    return (
        4
        if name in ("int4", "uint4")
        else 2
        if name in ("int2", "uint2")
        else (8 * np.dtype(dtype).itemsize)
    )
