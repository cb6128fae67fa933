from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maas_sdk.errors import ConfigError
from maas_sdk.models.activations import ACTIVATIONS, activation

X = np.linspace(-4, 4, 81)
# Written out in float64; the reference group holds every name against torch.
FORMULAS = {
    "elu": np.where(X > 0, X, np.expm1(X)),
    "gelu_tanh": 0.5 * X * (1 + np.tanh(np.sqrt(2 / np.pi) * (X + 0.044715 * X**3))),
    "identity": X,
    "leaky_relu": np.where(X > 0, X, 0.01 * X),
    "relu": np.maximum(X, 0),
    "sigmoid": 1 / (1 + np.exp(-X)),
    "silu": X / (1 + np.exp(-X)),
    "tanh": np.tanh(X),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_names_mean_what_they_say(name: str) -> None:
    """Each activation is its formula, within 1e-6."""
    found = activation(name)(jnp.asarray(X, jnp.float32))
    np.testing.assert_allclose(found, FORMULAS[name], atol=2e-6)


def test_gelu_is_the_exact_one() -> None:
    """The name "gelu" is x·Φ(x), not its approximation, which is off by up to 5e-4."""
    x = jnp.asarray(X, jnp.float32)
    exact = x * jax.scipy.stats.norm.cdf(x)
    np.testing.assert_allclose(activation("gelu")(x), exact, atol=1e-6)
    assert np.abs(activation("gelu_tanh")(x) - exact).max() > 1e-4


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_dtype_stays(name: str) -> None:
    """bfloat16 in, bfloat16 out, and the shape with it."""
    found = activation(name)(jnp.ones((2, 3), jnp.bfloat16))
    assert (found.shape, found.dtype) == ((2, 3), jnp.bfloat16)


def test_an_unknown_name_is_told_with_all_that_are_known() -> None:
    """A misspelt name is refused, and the list is in the message."""
    with pytest.raises(ConfigError, match=r"unknown 'geluu'; known are celu, elu, gelu, .*tanh"):
        activation("geluu")
