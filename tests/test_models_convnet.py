from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maas_sdk.models.convnet import ConvNet

IMAGES = np.linspace(0, 1, 3 * 64, dtype=np.float32).reshape(3, 8, 8, 1)


def leaves(model: nnx.Module) -> dict[str, jax.Array]:
    return {
        "/".join(map(str, path)): variable.get_value()
        for path, variable in nnx.to_flat_state(nnx.state(model))
    }


def test_images_become_logits() -> None:
    """8×8×1 images in, one float32 row of logits for each out."""
    logits = ConvNet(rngs=nnx.Rngs(0), classes=7)(IMAGES)
    assert logits.shape == (3, 7)
    assert logits.dtype == jnp.float32


def test_names_are_the_ones_that_rules_match() -> None:
    """Parameter paths are part of the contract: sharding and quantization rules name them."""
    assert {path: value.shape for path, value in leaves(ConvNet(rngs=nnx.Rngs(0))).items()} == {
        "stem/kernel": (3, 3, 1, 32),
        "stem/bias": (32,),
        "trunk/kernel": (3, 3, 32, 64),
        "trunk/bias": (64,),
        "hidden/kernel": (1024, 128),
        "hidden/bias": (128,),
        "head/kernel": (128, 10),
        "head/bias": (10,),
    }


@pytest.mark.parametrize("dtype", [None, jnp.float32, jnp.bfloat16])
def test_logits_are_float32_whatever_the_layers_compute_in(dtype: jnp.dtype | None) -> None:
    """bfloat16 layers hand float32 logits to the loss, close to those of float32 layers."""
    logits = ConvNet(rngs=nnx.Rngs(0), dtype=dtype)(IMAGES)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, ConvNet(rngs=nnx.Rngs(0))(IMAGES), atol=0.05)


def test_parameters_have_the_dtype_that_was_asked_for() -> None:
    """``param_dtype`` holds for every parameter."""
    model = ConvNet(rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16)
    assert {value.dtype for value in leaves(model).values()} == {jnp.dtype(jnp.bfloat16)}


def test_one_seed_gives_one_model() -> None:
    """The same seed gives the same parameters, another seed others."""
    first, again, other = (leaves(ConvNet(rngs=nnx.Rngs(seed))) for seed in (1, 1, 2))
    for path, value in first.items():
        np.testing.assert_array_equal(value, again[path])
    assert not np.array_equal(first["stem/kernel"], other["stem/kernel"])
