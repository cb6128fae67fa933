"""The parameters of a model as a flat list: name, shape, dtype and the axes their author named.

Only shapes are read, so a tree of ``jax.ShapeDtypeStruct`` does.
"""

from __future__ import annotations

from typing import Any

from flax import nnx

from maas_sdk.errors import InputError
from maas_sdk.model.leaf import Leaf
from maas_sdk.model.names import named_leaves

__all__ = ["leaves_of"]


def leaves_of(tree: Any) -> list[Leaf]:
    """Return the arrays (or shapes of arrays) of a pytree, in ``jax.tree.leaves``'s order.

    Raises:
        InputError: a leaf that has no shape and dtype.
    """
    found: list[Leaf] = []
    for name, value, _, box, _ in named_leaves(tree):
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            raise InputError(
                f"parameter {name!r}: expected an array or a jax.ShapeDtypeStruct, got "
                f"{type(value).__name__}; make shapes with jax.eval_shape or nnx.eval_shape"
            )
        axes = _annotation(box)
        # A box may hold several arrays, or a stack: the names of another rank are not theirs.
        fits = axes is not None and len(axes) == len(value.shape)
        found.append(Leaf(name=name, value=value, axes=axes if fits else None))
    return found


def _annotation(box: Any) -> tuple[Any, ...] | None:
    """Return dimensions' names: nnx's ``out_sharding`` (once ``sharding``), linen's ``names``."""
    if isinstance(box, nnx.Variable):
        metadata = box.get_metadata()
        axes = metadata.get("out_sharding") or metadata.get("sharding")
        axes = getattr(axes, "spec", axes)
    else:
        axes = getattr(box, "names", None)
    return None if not axes else tuple(axes)
