"""A module's answers to many rows, in this process: the reference for others.

Dimension letters: N rows in all, B rows of a batch.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import nnx

from maas_sdk.errors import InputError
from maas_sdk.tensors import Array

__all__ = ["predict"]


def predict(model: nnx.Module, inputs: Array, *, batch_size: int = 256) -> Array:
    """Return the model's output for every row.

    Args:
        model: maps ``[B, …]`` to one array ``[B, …]``, in eval mode.
        inputs: ``[N, …]``, at least one row.
        batch_size: most rows in one call. The last batch may be smaller, which compiles once more.

    Returns:
        The outputs, ``[N, …]``.

    Raises:
        InputError: no rows.
    """
    if not len(inputs):
        raise InputError("expected at least one row to predict, got none")
    graphdef, state = nnx.split(model)

    @jax.jit
    def call(state: Any, rows: jax.Array) -> Any:
        rebuilt: Any = nnx.merge(graphdef, state)
        return rebuilt(rows)

    parts = [
        np.asarray(call(state, inputs[start : start + batch_size]))
        for start in range(0, len(inputs), batch_size)
    ]
    return np.concatenate(parts)
