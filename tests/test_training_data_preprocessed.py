from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file
from sklearn.datasets import load_breast_cancer

from maas_sdk.errors import InputError
from maas_sdk.export import export
from maas_sdk.runtime import load
from maas_sdk.training.data import Examples, Normalization, Preprocessed, stratified_split
from maas_sdk.training.optimizer import OptimizerConfig
from maas_sdk.training.run.trainer import TrainConfig, Trainer


class Small(nnx.Module):
    """30 features to 2 logits."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(30, 16, rngs=rngs)
        self.head = nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(nnx.relu(self.hidden(x)))


def test_a_bundle_takes_raw_inputs(tmp_path: Path) -> None:
    """The statistics travel as weights: served, raw rows get the answers of normalized ones.

    Real rows, whose features range from 0.001 to 4,000, so that forgetting any of it shows.
    """
    found = load_breast_cancer()
    data = Examples(inputs=found.data.astype(np.float32), labels=found.target)
    split = stratified_split(data, test_fraction=0.2, seed=0)
    normalization = Normalization.fit(split)
    model = Small(nnx.Rngs(0))
    expected = np.asarray(model(normalization.apply(split.test.inputs)))
    assert np.abs(np.asarray(model(split.test.inputs)) - expected).max() > 10

    raw = split.test.inputs[:16]
    whole = Preprocessed(model, normalization)
    bundle = export(whole, raw, path=tmp_path / "cells.maas", name="cells", buckets=(16,))
    answers = load(bundle.path).predict({"input": raw})
    np.testing.assert_allclose(answers, expected[:16], atol=1e-4, rtol=1e-4)

    weights = load_file(bundle.path / "weights.safetensors")
    np.testing.assert_array_equal(weights["offset"], normalization.offset)
    np.testing.assert_array_equal(weights["scale"], normalization.scale)
    assert "model/head/kernel" in weights


@pytest.mark.parametrize("over", ["feature", "channel", "all"])
def test_the_formula_is_that_of_the_host(over: str) -> None:
    """What the device computes is what ``apply`` does, for bytes and floats, compiled or not."""
    images = np.random.default_rng(0).integers(0, 256, (8, 5, 4, 3), np.uint8)
    data = Examples(inputs=images, labels=np.zeros(8, np.int32))
    normalization = Normalization.fit(data, over=over)
    whole = Preprocessed(nnx.identity, normalization)  # type: ignore[arg-type]
    graph, state = nnx.split(whole)
    compiled = jax.jit(lambda state, inputs: nnx.merge(graph, state)(inputs))
    for inputs in (images, images.astype(np.float32)):
        expected = normalization.apply(inputs)
        np.testing.assert_allclose(whole(inputs), expected, rtol=1e-6)
        np.testing.assert_allclose(compiled(state, inputs), expected, rtol=1e-6, atol=1e-6)


def test_the_model_computes_in_the_float_that_came() -> None:
    """bfloat16 in, bfloat16 on: a training policy's narrow inputs do not widen the whole model."""
    data = Examples(inputs=np.eye(30, dtype=np.float32), labels=np.zeros(30, np.int32))
    whole = Preprocessed(nnx.identity, Normalization.fit(data))  # type: ignore[arg-type]
    for dtype, expected in (("bfloat16", "bfloat16"), ("float16", "float16"), ("int8", "float32")):
        assert whole(jnp.ones((2, 30), dtype)).dtype == expected


def test_statistics_are_no_parameters() -> None:
    """An optimizer does not see them, and training code takes them along as state."""
    data = Examples(inputs=np.eye(30, dtype=np.float32), labels=np.zeros(30, np.int32))
    whole = Preprocessed(Small(nnx.Rngs(0)), Normalization.fit(data))
    names = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(whole, nnx.Param))}
    assert names == {f"model/{n}/{p}" for n in ("hidden", "head") for p in ("kernel", "bias")}


def test_it_trains_on_raw_inputs_and_keeps_its_statistics() -> None:
    """The trainer moves the model's weights alone, and what comes out is the whole."""
    found = load_breast_cancer()
    data = Examples(inputs=found.data.astype(np.float32), labels=found.target)
    split = stratified_split(data, test_fraction=0.3, seed=0)
    normalization = Normalization.fit(split)
    config = TrainConfig(
        epochs=8, batch_size=32, progress=False, optimizer=OptimizerConfig(learning_rate=0.01)
    )
    result = Trainer(config).fit(Preprocessed(Small(nnx.Rngs(0)), normalization), split)
    trained: Any = result.model
    np.testing.assert_array_equal(trained.offset[...], normalization.offset)
    np.testing.assert_array_equal(trained.scale[...], normalization.scale)
    right = np.argmax(trained(split.test.inputs), axis=1) == split.test.labels
    assert right.mean() > 0.92


def test_rows_of_another_shape_are_refused() -> None:
    """While the program is traced, in words."""
    data = Examples(inputs=np.eye(30, dtype=np.float32), labels=np.zeros(30, np.int32))
    whole = Preprocessed(Small(nnx.Rngs(0)), Normalization.fit(data))
    with pytest.raises(InputError, match=r"end in shape \[30\], got rows of shape \[29\]"):
        whole(np.zeros((2, 29), np.float32))
