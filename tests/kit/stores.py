"""What tests of stores share: small bundles that differ in weights alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from maas_sdk.bundle import BundleWriter, Manifest, write_weights
from maas_sdk.bundle.manifest import Program
from maas_sdk.tensors import Signature

__all__ = ["make_bundle"]


def make_bundle(path: Path, seed: int = 0, nbytes: int = 100_000) -> Path:
    """A bundle whose programs are always the same and whose weights follow from the seed."""
    program = Program(
        signature=Signature(inputs={}, outputs={}), weights=(), buckets=(1,), row_independent=True
    )
    with BundleWriter(path) as writer:
        for index in range(4):
            writer.add(f"programs/predict-b{index}.stablehlo", bytes([index]) * 1000)
        writer.add("assets/empty", b"")
        weights = np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)
        write_weights(writer.path / "weights.safetensors", {"w": weights})
        writer.seal(Manifest(name="m", programs={"predict": program}, targets={}))
    return path
