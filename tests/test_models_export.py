"""Models become bundles that answer as they do, in a process without jax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maas_sdk.export import export
from maas_sdk.models.presets import MODULES, preset
from maas_sdk.runtime import load

TOKENS = np.random.default_rng(0).integers(1, 50, (2, 6)).astype(np.int32)
IMAGES = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
SMALL = {"vocab_size": 50, "features": 16, "heads": 2, "hidden_features": 24, "max_length": 8}

MODELS = {
    "mlp": (preset("mlp-digits", hidden_features=(16,)), IMAGES),
    "resnet18": (
        preset("resnet18-small", widths=(4, 4, 8, 8), channels=1),
        IMAGES,
    ),
    "gru": (preset("gru-digits", hidden_features=8), IMAGES),
    "bert": (preset("bert-tiny", **SMALL, pad_token=0), TOKENS),
    "decoder": (preset("decoder-tiny", **SMALL, scan_layers=True), TOKENS),
}


def filled(config: Any) -> nnx.Module:
    """A module with numbers that depend on its shapes alone; dropout keeps a real seed."""
    model = nnx.eval_shape(lambda: MODULES[type(config)](config, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    draw = np.random.RandomState(0)

    def fill(leaf: Any) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, leaf.dtype)
        return jnp.asarray(np.abs(0.3 * draw.standard_normal(leaf.shape)), leaf.dtype)

    return nnx.merge(graphdef, jax.tree.map(fill, state))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_bundle_answers_as_its_model(name: str, tmp_path: Path) -> None:
    """Exported, opened again by the runtime, and equal within float32's rounding, row by row."""
    config, rows = MODELS[name]
    model: Any = filled(config)
    bundle = export(model, rows, path=tmp_path / "m.maas", name=name, buckets=(2,), targets=())
    model.eval()
    expected = model(rows)
    assert bundle.manifest.programs["predict"].row_independent
    with load(bundle.path) as engine:
        found = engine.run({"input": rows})["output"]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
