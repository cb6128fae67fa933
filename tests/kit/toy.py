"""A model of one product, ``y = x @ w``, and what a manifest says of such a one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from maas_sdk.bundle.manifest import Manifest, Program, Target
from maas_sdk.export import default_targets, export
from maas_sdk.tensors import Array, Signature, TensorSpec

__all__ = ["toy_bundle", "toy_manifest", "toy_program"]


def toy_program(**fields: Any) -> Program:
    """A program from ``x`` to ``y``, float32[B, 2], with one bucket and no weights."""
    spec = TensorSpec(dtype="float32", shape=(None, 2))
    signature = Signature(inputs={"x": spec}, outputs={"y": spec})
    plain: dict[str, Any] = {"weights": (), "buckets": (1,), "row_independent": True}
    return Program(signature=signature, **{**plain, **fields})


def toy_manifest(*jaxlibs: str, **fields: Any) -> Manifest:
    """With a target for each build of jaxlib."""
    targets = {
        f"cpu-{index}": Target(platform="cpu", arch="x86_64", jaxlib=build)
        for index, build in enumerate(jaxlibs)
    }
    return Manifest(name="toy", programs={"predict": toy_program()}, targets=targets, **fields)


def toy_bundle(folder: Path, weight: Array, name: str = "toy") -> Path:
    """Export ``x @ weight``, x float32[B, 2], for the processor of this machine."""
    return export(
        lambda weights, inputs: {"y": inputs["x"] @ weights["w"]},
        {"x": np.arange(4, dtype=np.float32).reshape(2, 2)},
        path=folder / f"{name}.maas",
        name=name,
        weights={"w": weight},
        targets=default_targets()[:1],
    ).path
