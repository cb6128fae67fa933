"""A bundle that is made in a second and whose answers can be told by hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

__all__ = ["tiny_bundle"]


def tiny_bundle(folder: str | os.PathLike[str], *, name: str = "tiny", scale: float = 1.0) -> Path:
    """Export a bundle with one program, ``predict``, for the processor of this machine.

    Its input is ``x``, float32[B, 4], and its output ``y = scale · x @ w``, float32[B, 3], where
    ``w`` holds 0, 1, … 11 by rows. Its buckets are 1, 2 and 4 rows. Needs ``maas-sdk[train]``.

    Args:
        folder: where ``<name>.maas`` is written; replaced if it is there.
        name: of the model.
        scale: factor of the weights, for versions that answer differently.

    Returns:
        The bundle's path.
    """
    # jax is loaded by who asks for a bundle, not by who tests against one.
    from maas_sdk.export import default_targets, export

    return export(
        lambda weights, inputs: {"y": inputs["x"] @ weights["w"]},
        {"x": np.random.default_rng(0).random((3, 4), np.float32)},
        path=Path(folder) / f"{name}.maas",
        name=name,
        weights={"w": np.float32(scale) * np.arange(12, dtype=np.float32).reshape(4, 3)},
        buckets=(1, 2, 4),
        targets=default_targets()[:1],
        overwrite=True,
    ).path
