from __future__ import annotations

import re
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maas_sdk.demo.digits import load_split
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.models.presets import abstract_model
from maas_sdk.models.resnet import ResNet, ResNetConfig
from maas_sdk.training.optimizer import OptimizerConfig
from maas_sdk.training.run.trainer import TrainConfig, Trainer

TINY = ResNetConfig.preset("resnet-digits", depths=(1, 1), widths=(4, 8))


@pytest.mark.slow
def test_digits_are_learned() -> None:
    """Four epochs on handwritten digits: over 95 % on held-out ones, with running statistics."""
    config = TrainConfig(epochs=4, mesh={"data": 1}, optimizer=OptimizerConfig(learning_rate=1e-2))
    model = ResNet(ResNetConfig.preset("resnet-digits"), rngs=nnx.Rngs(0))
    assert Trainer(config).fit(model, load_split()).best.eval["accuracy"] > 0.95


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("resnet18", 11_689_512), ("resnet50", 25_557_032)],
)
def test_presets_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    """11.7 and 25.6 million, as torchvision lists them."""
    leaves = jax.tree.leaves(nnx.state(abstract_model(name), nnx.Param))
    assert sum(leaf.size for leaf in leaves) == parameters


@pytest.mark.parametrize(
    ("stem", "size", "expected"), [("large", 64, 2), ("large", 33, 2), ("small", 32, 4)]
)
def test_images_shrink_as_published(stem: str, size: int, expected: int) -> None:
    """The large stem and three stages divide by 32, rounded up; the small one by 8."""
    config = ResNetConfig(block="basic", depths=(1,) * 4, widths=(2,) * 4, stem=stem, classes=3)
    seen: list[tuple[int, ...]] = []

    def call(images: jax.Array) -> jax.Array:
        model = ResNet(config, rngs=nnx.Rngs(0))
        head, stage = model.head, cast("Any", model.stages[-1])
        model.head = lambda x: (seen.append(x.shape), head(x))[1]  # type: ignore[assignment]
        last = stage[-1]
        stage[-1] = lambda x: (seen.append((y := last(x)).shape), y)[1]
        return model(images)

    logits = jax.eval_shape(call, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
    assert logits.shape == (1, 3)
    assert seen == [(1, expected, expected, 2), (1, 2)]


def test_blocks_start_as_the_identity() -> None:
    """The last norm of each block has scale 0, so what a block adds at first is nothing."""

    def run(x: jax.Array) -> jax.Array:
        model = ResNet(TINY, rngs=nnx.Rngs(0))
        model.eval()
        return model.stages[0][0](x)

    x = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(run)(x), np.maximum(x, 0))


def test_bfloat16_stays_bfloat16_between_float32_statistics() -> None:
    """All convolutions of a bfloat16 copy are in bfloat16; running statistics stay float32."""
    model = nnx.eval_shape(lambda: ResNet(TINY, rngs=nnx.Rngs(0)))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), params)

    def call(params: nnx.State, rest: nnx.State, x: jax.Array) -> tuple[jax.Array, nnx.State]:
        model = nnx.merge(graphdef, params, rest, copy=True)
        return model(x), nnx.state(model, nnx.Not(nnx.Param))

    x = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.bfloat16)
    text = jax.jit(call).lower(params, rest, x).as_text()
    operands = re.findall(r"stablehlo\.convolution.* : \((.*)\) ->", text)
    assert len(operands) == 6
    assert all("f32" not in both for both in operands)
    logits, after = jax.eval_shape(call, params, rest, x)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype(jnp.float32)}


def test_misfits_are_told() -> None:
    """Images of other channels, and stages without widths."""

    def call(images: jax.Array) -> jax.Array:
        return ResNet(TINY, rngs=nnx.Rngs(0))(images)

    with pytest.raises(InputError, match=r"expected shape \[B, Y, X, 1\], got \[2, 8, 8, 3\]"):
        jax.eval_shape(call, jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32))
    with pytest.raises(ConfigError, match="one of each per stage, got 2 and 4"):
        ResNetConfig(block="basic", depths=(1, 1))
    with pytest.raises(ConfigError, match="block: expected one of basic, bottleneck, got 'wide'"):
        ResNetConfig(block="wide", depths=(1,), widths=(1,))
