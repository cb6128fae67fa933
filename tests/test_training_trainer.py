from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maas_sdk.demo.digits import load_split
from maas_sdk.errors import ConfigError
from maas_sdk.models.convnet import ConvNet
from maas_sdk.training.hooks import EvalRecord, Record
from maas_sdk.training.losses import cross_entropy
from maas_sdk.training.trainer import TrainConfig, Trainer


def digest(model: nnx.Module) -> str:
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(nnx.state(model)):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


def trained_digest() -> str:
    """Train for two epochs; run in this process and in a fresh one."""
    config = TrainConfig(epochs=2, seed=5, precision="bf16")
    return digest(Trainer(config).fit(ConvNet(rngs=nnx.Rngs(5)), load_split()).model)


def test_digits_are_learned_in_bfloat16_on_eight_devices() -> None:
    """Four epochs reach 95 % on held-out digits; the history tells of each; compiled once."""
    traces: list[None] = []
    told: list[Record] = []

    def counted(logits: jax.Array, labels: jax.Array) -> jax.Array:
        traces.append(None)
        return cross_entropy()(logits, labels)

    model = ConvNet(rngs=nnx.Rngs(0))
    before = digest(model)
    config = TrainConfig(epochs=4, precision="bf16", loss=counted)
    result = Trainer(config).fit(model, load_split(), hooks=[told.append])

    assert len(traces) == result.compiles == 2  # the training step and the evaluation step
    assert digest(model) == before
    assert result.devices == 8
    assert result.steps == 4 * 22
    history = tuple(record for record in told if isinstance(record, EvalRecord))
    assert history == result.history
    assert [record.epoch for record in history] == [1, 2, 3, 4]
    assert history[-1].eval["accuracy"] > 0.95
    assert history[-1].train["loss"] < history[0].train["loss"]
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(result.model))} == {
        jnp.dtype(jnp.float32)
    }
    # The measured accuracy is that of the model which is handed back.
    test = load_split().test
    right = np.asarray(result.model(test.inputs)).argmax(-1) == test.labels
    assert np.mean(right) == pytest.approx(history[-1].eval["accuracy"], abs=0.01)


def test_the_same_seed_gives_the_same_weights_in_another_process() -> None:
    """Bit for bit, whatever Python's own hash seed is."""
    here = trained_digest()
    there = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, runpy; print(runpy.run_path(sys.argv[1])['trained_digest']())",
            __file__,
        ],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    assert there.stdout.strip() == here


def test_another_seed_gives_other_weights() -> None:
    """The seed decides the order of the examples."""
    config = TrainConfig(epochs=1)
    data = load_split()
    first = Trainer(config).fit(ConvNet(rngs=nnx.Rngs(0)), data).model
    other = Trainer(TrainConfig(epochs=1, seed=1)).fit(ConvNet(rngs=nnx.Rngs(0)), data).model
    assert digest(first) != digest(other)


class Restless(nnx.Module):
    """A model with everything that is not a parameter: batch statistics and random streams."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.head(self.dropout(self.norm(images.reshape(-1, 64))))


def test_dropout_and_batch_statistics_are_trained_with_and_judged_without() -> None:
    """The result is in eval mode with statistics of its own; the given model keeps its mode."""
    model = Restless(nnx.Rngs(0))
    data = load_split()
    result = Trainer(TrainConfig(epochs=1)).fit(model, data)
    trained: Any = result.model
    rows = data.test.inputs[:8]
    np.testing.assert_array_equal(trained(rows), trained(rows))
    assert np.ptp(trained.norm.mean[...]) > 0
    assert np.ptp(model.norm.mean[...]) == 0
    assert not model.dropout.deterministic


def test_a_batch_must_fit_mesh_and_data() -> None:
    """Both misfits are refused before anything is compiled, with the number that would fit."""
    model, data = ConvNet(rngs=nnx.Rngs(0)), load_split()
    with pytest.raises(ConfigError, match="cannot be cut evenly over 8 devices"):
        Trainer(TrainConfig(batch_size=60)).fit(model, data)
    with pytest.raises(ConfigError, match="more than the 1438 training examples"):
        Trainer(TrainConfig(batch_size=4096)).fit(model, data)
    with pytest.raises(ConfigError, match="unknown strategy 'magic'"):
        Trainer(TrainConfig(strategy="magic")).fit(model, data)


@pytest.mark.parametrize("field", ["epochs", "batch_size"])
def test_counts_are_positive(field: str) -> None:
    """Zero epochs or rows is a mistake, and is said to be one."""
    with pytest.raises(ConfigError, match=f"{field}: expected 1 or more, got 0"):
        TrainConfig(**{field: 0})
