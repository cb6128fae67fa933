from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maas_sdk.demo.digits import load_split
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.models.mlp import MLP, MLPConfig
from maas_sdk.training.optimizer import OptimizerConfig
from maas_sdk.training.run.trainer import TrainConfig, Trainer


def test_digits_are_learned() -> None:
    """Ten epochs on handwritten digits, images as they are: over 94 % on held-out ones."""
    config = TrainConfig(epochs=10, optimizer=OptimizerConfig(learning_rate=1e-2))
    model = MLP(MLPConfig.preset("mlp-digits"), rngs=nnx.Rngs(0))
    assert Trainer(config).fit(model, load_split()).best.eval["accuracy"] > 0.94


def test_names_are_the_ones_that_rules_match() -> None:
    """Parameter paths are part of the contract."""
    model = MLP(MLPConfig(features=4, hidden_features=(8, 6), outputs=3), rngs=nnx.Rngs(0))
    shapes = {
        "/".join(map(str, path)): variable.get_value().shape
        for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }
    assert shapes == {
        "hidden/0/kernel": (4, 8),
        "hidden/0/bias": (8,),
        "hidden/1/kernel": (8, 6),
        "hidden/1/bias": (6,),
        "head/kernel": (6, 3),
        "head/bias": (3,),
    }


def test_without_hidden_layers_it_is_linear() -> None:
    """``hidden_features=()`` is a dense layer; bfloat16 parameters still give float32 outputs."""
    config = MLPConfig(features=6, hidden_features=(), outputs=2)
    model = MLP(config, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16)
    x = jnp.ones((5, 2, 3), jnp.bfloat16)
    outputs = model(x)
    assert outputs.dtype == jnp.float32
    kernel = model.head.kernel[...].astype(jnp.float32)
    np.testing.assert_allclose(outputs, jnp.ones((5, 6)) @ kernel, rtol=1e-6)


def test_dropout_is_for_training_alone() -> None:
    """Two calls differ in training mode and are equal in evaluation mode."""
    model = MLP(MLPConfig(features=4, outputs=2, dropout=0.5), rngs=nnx.Rngs(0))
    x = jnp.ones((1, 4))
    assert not np.array_equal(model(x), model(x))
    model.eval()
    np.testing.assert_array_equal(model(x), model(x))


def test_rows_of_another_size_are_refused() -> None:
    """The message says how many numbers a row should have."""
    model = MLP(MLPConfig(features=4, outputs=2), rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match=r"expected rows of 4 numbers, got \[2, 5\]"):
        model(jnp.ones((2, 5)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": 0}, "features: expected 1 or more, got 0"),
        ({"hidden_features": (8, 0)}, r"hidden_features: expected 1 or more, got \(8, 0\)"),
        ({"activation": "rleu"}, "activation: unknown 'rleu'"),
        ({"dropout": 1.0}, "dropout: expected 0 ≤ x < 1, got 1.0"),
    ],
)
def test_settings_are_checked(fields: dict[str, object], message: str) -> None:
    """A mistake is told with the name of its field, before a model is made."""
    with pytest.raises(ConfigError, match=message):
        MLPConfig(**{"features": 4, "outputs": 2, **fields})


def test_gradients_of_float32_logits_stay_in_the_compute_dtype() -> None:
    """Logits are float32 sums; their gradients' products run on bfloat16 operands."""
    model = MLP(MLPConfig(features=4, hidden_features=(), outputs=3), rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)

    def loss(state: nnx.State, x: jax.Array) -> jax.Array:
        state = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state)
        return nnx.merge(graphdef, state)(x).sum()

    text = jax.jit(jax.grad(loss)).lower(state, jnp.ones((2, 4), jnp.bfloat16)).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products
    assert all("xbf16>" in line.split("->")[0] for line in products)
    assert not any("xf32>" in line.split("->")[0] for line in products)
