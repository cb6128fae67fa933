"""Settings and the small bundle that tests share.

JAX reads its environment when it is first imported, so the eight fake CPU devices are asked for
here, before any test module loads.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # XLA's start-up notes are no warnings


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that nobody may change, with this machine's default targets.

    Over the weight ``w``, arange(12) as [4, 3] of float32:

    - ``predict``: ``x`` [B, 4] → ``y = x @ w`` [B, 3]; buckets 1, 2, 4
    - ``both``: ``x``, ``n`` int32 [B] → ``y``, ``n = n + 1``; buckets 2
    - ``center``: ``x`` minus the mean over rows, so rows influence one another; buckets 2, 4
    - ``root``: ``s`` [B, 2, 2] → its Cholesky factor, a custom call; buckets 1
    """
    import jax.numpy as jnp

    from maas_sdk.export import ProgramSpec, export

    x = np.random.default_rng(0).random((3, 4), np.float32)
    square = np.array([[[4, 2], [2, 3]]], np.float32)

    def center(weights: Any, inputs: Any) -> Any:
        return {"y": inputs["x"] - inputs["x"].mean(axis=0) + 0 * weights["w"][0, 0]}

    return export(
        lambda weights, inputs: {"y": inputs["x"] @ weights["w"]},
        {"x": x},
        path=tmp_path_factory.mktemp("tiny") / "tiny.maas",
        name="tiny",
        weights={"w": np.arange(12, dtype=np.float32).reshape(4, 3)},
        buckets=(1, 2, 4),
        programs={
            "predict": None,
            "both": ProgramSpec(
                fn=lambda weights, i: {"y": i["x"] @ weights["w"], "n": i["n"] + 1},
                example_inputs={"x": x, "n": np.arange(3, dtype=np.int32)},
                buckets=(2,),
            ),
            "center": ProgramSpec(fn=center, buckets=(2, 4)),
            "root": ProgramSpec(
                fn=lambda weights, i: {"r": jnp.linalg.cholesky(i["s"])},
                example_inputs={"s": square},
                buckets=(1,),
            ),
        },
    ).path


@pytest.fixture
def changed_bundle(tiny_bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy of the tiny bundle with ``change(manifest as a dict)`` applied."""

    def make(change: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
        copy = Path(shutil.copytree(tiny_bundle, tmp_path / "changed.maas"))
        file = copy / "manifest.json"
        document = json.loads(file.read_bytes())
        change(document)
        file.write_text(json.dumps(document))
        return copy

    return make
