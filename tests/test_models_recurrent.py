from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maas_sdk.demo.digits import load_split
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.models.recurrent import Recurrent, RecurrentConfig
from maas_sdk.training.optimizer import OptimizerConfig
from maas_sdk.training.run.trainer import TrainConfig, Trainer


def make(**fields: object) -> Recurrent:
    shape = {"features": 3, "hidden_features": 4, "classes": 2}
    return Recurrent(RecurrentConfig(**{**shape, **fields}), rngs=nnx.Rngs(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm-digits", "gru-digits"])
def test_digits_are_learned_as_sequences_of_rows(name: str) -> None:
    """An image is read row by row: over 93 % of held-out digits after twelve epochs."""
    config = TrainConfig(epochs=12, mesh={"data": 1}, optimizer=OptimizerConfig(learning_rate=2e-2))
    model = Recurrent(RecurrentConfig.preset(name, hidden_features=32), rngs=nnx.Rngs(0))
    assert Trainer(config).fit(model, load_split()).best.eval["accuracy"] > 0.93


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_what_lies_behind_the_end_changes_nothing(cell: str) -> None:
    """A row padded to its batch is answered as it is alone, in both directions."""
    graphdef, state = nnx.split(make(cell=cell, bidirectional=True, layers=2))

    @jax.jit
    def model(rows: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        return nnx.merge(graphdef, state)(rows, lengths=lengths)

    rows = np.random.default_rng(0).random((2, 5, 3), np.float32)
    alone = model(rows[1:, :3])
    rows[1, 3:] = 7
    padded = model(rows, lengths=np.array([5, 3]))
    np.testing.assert_allclose(padded[1:], alone, atol=1e-6)
    np.testing.assert_allclose(padded[:1], model(rows[:1]), atol=1e-6)


def test_a_backward_cell_reads_the_end_first() -> None:
    """Sequence reversed and directions exchanged: the same answer."""
    model = make(bidirectional=True)
    rows = np.random.default_rng(0).random((2, 5, 3), np.float32)
    expected = model(rows)
    cells = model.layers[0]
    cells["forward"], cells["backward"] = cells["backward"], cells["forward"]
    first, second = np.split(model.head.kernel[...], 2)
    model.head.kernel[...] = jnp.concatenate([second, first])
    np.testing.assert_allclose(model(rows[:, ::-1]), expected, atol=1e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_logits_are_float32_whatever_the_cells_compute_in(cell: str) -> None:
    """A bfloat16 copy carries bfloat16 states and hands out float32 logits close to float32's."""
    model = make(cell=cell)
    graphdef, state = nnx.split(model)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state)
    rows = np.random.default_rng(0).random((2, 5, 3), np.float32)
    found = nnx.merge(graphdef, half)(rows.astype(jnp.bfloat16))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, model(rows), atol=0.05)


def test_misfits_are_told() -> None:
    """Steps of another width, floats for tokens, an unknown cell."""
    with pytest.raises(InputError, match=r"floats of shape \[B, T, 3\], got float32\[2, 5, 4\]"):
        make()(np.ones((2, 5, 4), np.float32))
    with pytest.raises(InputError, match=r"integers of shape \[B, T\], got float32\[2, 5, 3\]"):
        make(vocab_size=9)(np.ones((2, 5, 3), np.float32))
    with pytest.raises(ConfigError, match="cell: expected one of lstm, gru, got 'rnn'"):
        make(cell="rnn")
