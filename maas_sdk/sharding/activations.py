"""Activations sharded by rows, so that FSDP gathers weights instead of moving activations.

With weights and rows cut over the same mesh axis, a product's partitioning is ambiguous, and left
to itself the compiler cuts features and puts all rows on every device: for an 8-billion-parameter
decoder on 16 chips that is ten times the traffic, and it does not fit. One constraint after every
module settles it.

The rule it keeps: only the first dimension is constrained, only of arrays with as many rows as the
batch; everything else stays the compiler's choice. Values do not change.

Dimension letters: B rows of the batch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from maas_sdk.sharding.layout import BATCH_AXES

__all__ = ["keep_rows_cut"]

Module = TypeVar("Module", bound=nnx.Module)


def keep_rows_cut(model: Module, mesh: Mesh, rows: int) -> Module:
    """Return a copy of ``model`` whose parts keep their activations sharded by rows.

    It has variables of its own over the same arrays, and a state of the same structure. Where the
    mesh has no axis ``fsdp`` nothing is ambiguous, and the model itself is returned.

    Args:
        model: any nnx module.
        mesh: the batch is cut over its axes out of ``layout.BATCH_AXES``.
        rows: B, of the whole batch.
    """
    if mesh.shape.get("fsdp", 1) == 1:
        return model
    axes = tuple(name for name in BATCH_AXES if mesh.shape.get(name, 1) > 1)
    own: Any = nnx.clone(model)
    for _, module in nnx.iter_modules(own):
        kind = type(module)
        if callable(module) and not isinstance(module, nnx.List | nnx.Dict):
            object.__setattr__(module, "__class__", _constrained(kind, mesh, axes, rows))
    return own  # type: ignore[no-any-return]


@lru_cache(maxsize=512)
def _constrained(kind: Any, mesh: Mesh, axes: tuple[str, ...], rows: int) -> Any:
    def constrain(leaf: Any) -> Any:
        shape: Any = getattr(leaf, "shape", ())
        if len(shape) < 2 or shape[0] != rows:
            return leaf
        free: list[Any] = [PartitionSpec.UNCONSTRAINED] * (len(shape) - 1)
        named = NamedSharding(mesh, PartitionSpec(axes, *free))  # type: ignore[no-untyped-call]
        return jax.lax.with_sharding_constraint(leaf, named)  # type: ignore[no-untyped-call]

    class Constrained(kind):  # type: ignore[misc]
        def __call__(self, *inputs: Any, **options: Any) -> Any:
            return jax.tree.map(constrain, super().__call__(*inputs, **options))

    Constrained.__name__, Constrained.__qualname__ = kind.__name__, kind.__qualname__
    return Constrained
