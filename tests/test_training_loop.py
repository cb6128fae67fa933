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
from maas_sdk.sharding.mesh import make_mesh
from maas_sdk.training.loop import EpochRecord, TrainConfig, train
from maas_sdk.training.precision import Policy
from maas_sdk.training.step import cross_entropy

QUICK = TrainConfig(epochs=4, precision=Policy.parse("bf16"))


def digest(model: nnx.Module) -> str:
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(nnx.state(model)):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


def trained_digest() -> str:
    """Train for two epochs; run in this process and in a fresh one."""
    config = TrainConfig(epochs=2, seed=5, precision=Policy.parse("bf16"))
    return digest(train(ConvNet(rngs=nnx.Rngs(5)), load_split(), config).model)


def test_digits_are_learned_in_bfloat16_on_eight_devices() -> None:
    """Four epochs reach 95 % on held-out digits; the history tells of each; compiled once."""
    traces: list[None] = []
    told: list[EpochRecord] = []

    def counted(logits: jax.Array, labels: jax.Array) -> jax.Array:
        traces.append(None)
        return cross_entropy()(logits, labels)

    model = ConvNet(rngs=nnx.Rngs(0))
    before = digest(model)
    result = train(model, load_split(), QUICK, loss_fn=counted, progress=told.append)

    assert len(traces) == 2  # once for the training step, once for the evaluation step
    assert digest(model) == before
    assert result.devices == 8
    assert result.steps == 4 * 22
    assert tuple(told) == result.history
    assert [record.epoch for record in told] == [1, 2, 3, 4]
    assert told[-1].test_accuracy > 0.95
    assert told[-1].train_loss < told[0].train_loss
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(result.model))} == {
        jnp.dtype(jnp.float32)
    }
    # The measured accuracy is that of the model which is handed back.
    test = load_split().test
    right = np.asarray(result.model(test.inputs)).argmax(-1) == test.labels
    assert np.mean(right) == pytest.approx(told[-1].test_accuracy, abs=0.01)


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
    first = train(ConvNet(rngs=nnx.Rngs(0)), data, config).model
    other = train(ConvNet(rngs=nnx.Rngs(0)), data, TrainConfig(epochs=1, seed=1)).model
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
    result = train(model, data, TrainConfig(epochs=1))
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
        train(model, data, TrainConfig(batch_size=60))
    with pytest.raises(ConfigError, match="more than the 1438 training examples"):
        train(model, data, TrainConfig(batch_size=4096))
    with pytest.raises(ConfigError, match="needs a mesh axis 'data'"):
        train(model, data, TrainConfig(), mesh=make_mesh({"tensor": 8}))
    with pytest.raises(ConfigError, match="unknown strategy 'magic'"):
        train(model, data, TrainConfig(strategy="magic"))


@pytest.mark.parametrize("field", ["epochs", "batch_size"])
def test_counts_are_positive(field: str) -> None:
    """Zero epochs or rows is a mistake, and is said to be one."""
    with pytest.raises(ConfigError, match=f"{field}: expected 1 or more, got 0"):
        TrainConfig(**{field: 0})
