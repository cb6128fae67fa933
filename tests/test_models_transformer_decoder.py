from __future__ import annotations

import sysconfig
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.models.presets import abstract_model
from maas_sdk.models.rotary import RotaryConfig, rotate
from maas_sdk.models.transformer import Decoder
from maas_sdk.models.transformer_config import DecoderConfig
from maas_sdk.sharding.pipeline import Pipelined
from maas_sdk.sharding.strategies import mesh_for
from maas_sdk.training.data import Examples, Split
from maas_sdk.training.optimizer import OptimizerConfig
from maas_sdk.training.run.trainer import TrainConfig, Trainer

TINY = DecoderConfig(
    vocab_size=11, layers=2, features=8, heads=4, kv_heads=2, hidden_features=12, max_length=16
)
GPT2_LIKE = DecoderConfig(
    vocab_size=11,
    layers=2,
    features=8,
    heads=4,
    hidden_features=12,
    max_length=16,
    rotary=None,
    norm="layer",
    activation="gelu_tanh",
    gated=False,
    use_bias=True,
    tied=True,
)
TOKENS = np.random.default_rng(0).integers(0, 11, (2, 10))


def paths(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    return {
        "/".join(map(str, path)): variable.get_value().shape
        for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }


def filled(model: nnx.Module) -> nnx.Module:
    """A module of shapes with numbers in it, without compiling an initializer for each shape."""
    graphdef, state = nnx.split(model)
    draw = np.random.RandomState(0)

    def fill(leaf: Any) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(0.3 * draw.standard_normal(leaf.shape), leaf.dtype)
        # The key and the counter of a random stream.
        return jnp.zeros(leaf.shape, leaf.dtype)

    return nnx.merge(graphdef, jax.tree.map(fill, state))


def answers(model: nnx.Module, tokens: np.ndarray) -> np.ndarray:
    graphdef, state = nnx.split(model)
    run = jax.jit(lambda state, tokens: nnx.merge(graphdef, state)(tokens))
    return np.asarray(run(state, tokens))


def abstract(config: DecoderConfig) -> Decoder:
    return nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))


def python_source() -> Split:
    """Bytes of the standard library's argparse: windows of 48 and the bytes that follow them."""
    text = (Path(sysconfig.get_paths()["stdlib"]) / "argparse.py").read_bytes()
    stream = np.frombuffer(text, np.uint8).astype(np.int32)
    windows = stream[np.arange(0, len(stream) - 49, 48)[:, None] + np.arange(49)]
    cut = len(windows) * 9 // 10

    def examples(rows: np.ndarray) -> Examples:
        return Examples(inputs=rows[:, :-1], labels=rows[:, 1:])

    return Split(train=examples(windows[:cut]), test=examples(windows[cut:]))


@pytest.mark.slow
def test_bytes_of_real_text_are_learned() -> None:
    """One epoch on Python source: from 8 bits to under 3.8 per byte (single bytes: 4.2)."""
    model = Decoder(DecoderConfig.preset("decoder-tiny", scan_layers=True), rngs=nnx.Rngs(0))
    config = TrainConfig(
        epochs=1,
        batch_size=32,
        mesh={"data": 1},
        optimizer=OptimizerConfig(learning_rate=5e-3),
    )
    result = Trainer(config).fit(model, python_source())
    assert result.best.eval["loss"] / np.log(2) < 3.8


@pytest.mark.parametrize("config", [TINY, GPT2_LIKE], ids=["llama", "gpt2"])
def test_the_future_is_not_seen(config: DecoderConfig) -> None:
    """Logits up to a position do not change when tokens after it do; those after it do."""
    changed = TOKENS.copy()
    changed[:, 6:] = (changed[:, 6:] + 1) % 11
    first, second = np.split(
        answers(filled(abstract(config)), np.concatenate([TOKENS, changed])), 2
    )
    np.testing.assert_array_equal(first[:, :6], second[:, :6])
    assert np.abs(first[:, 6:] - second[:, 6:]).min(axis=-1).max() > 0


def test_blocks_run_in_pipeline_stages() -> None:
    """Scanned layers in the hands of ``Pipelined``, two stages times two: the same logits."""
    config = DecoderConfig(**{**fields(TINY), "scan_layers": True})
    model: Any = filled(abstract(config))
    expected = answers(model, TOKENS)
    mesh = mesh_for("data", axes={"data": 2, "stage": 2}, devices=jax.devices()[:4])
    model.layers = Pipelined(model.layers, mesh=mesh, microbatches=1)
    np.testing.assert_allclose(answers(model, TOKENS), expected, atol=1e-4)


def fields(config: DecoderConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in DecoderConfig.__dataclass_fields__}


def test_names_are_the_ones_that_rules_match() -> None:
    """Parameter paths are part of the contract, listed and scanned, in both families."""
    llama = paths(abstract(TINY))
    assert {path: shape for path, shape in llama.items() if not path.startswith("layers/1")} == {
        "embed/embedding": (11, 8),
        "head/kernel": (8, 11),
        "layers/0/attention/key/kernel": (8, 4),
        "layers/0/attention/out/kernel": (8, 8),
        "layers/0/attention/query/kernel": (8, 8),
        "layers/0/attention/value/kernel": (8, 4),
        "layers/0/attention_norm/scale": (8,),
        "layers/0/mlp/down/kernel": (12, 8),
        "layers/0/mlp/gate/kernel": (8, 12),
        "layers/0/mlp/up/kernel": (8, 12),
        "layers/0/mlp_norm/scale": (8,),
        "norm/scale": (8,),
    }
    scanned = paths(abstract(DecoderConfig(**{**fields(GPT2_LIKE), "scan_layers": True})))
    assert scanned["layers/attention/query/kernel"] == (2, 8, 8)
    assert scanned["layers/mlp/up/bias"] == (2, 12)
    assert {"position_embed/embedding", "norm/bias"} < scanned.keys()
    assert not {"head/kernel", "layers/mlp/gate/kernel"} & scanned.keys()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-xl", 1_557_611_200),
        ("llama2-7b", 6_738_415_616),
        ("llama2-70b", 68_976_648_192),
        ("llama3-8b", 8_030_261_248),
        ("llama3-70b", 70_553_706_496),
        ("llama3.1-405b", 405_853_388_800),
        ("llama3.2-1b", 1_235_814_400),
    ],
)
def test_presets_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    """What is printed beside the published checkpoints, to the last one."""
    model = abstract_model(DecoderConfig.preset(name, scan_layers=True))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model))) == parameters


def test_eight_billion_parameters_are_lowered_from_shapes_alone() -> None:
    """A training step of 32 scanned layers: no weights, one copy of a layer in the program."""
    began = time.perf_counter()
    config = DecoderConfig.preset("llama3-8b", scan_layers=True, remat=True)
    graphdef, params = nnx.split(abstract_model(config))

    def loss(params: nnx.State, tokens: jax.Array) -> jax.Array:
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
        logits = nnx.merge(graphdef, half)(tokens)
        assert logits.dtype == jnp.float32
        losses = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:])
        return losses.mean()

    tokens = jax.ShapeDtypeStruct((16, 2048), jnp.int32)
    text = jax.jit(jax.grad(loss)).lower(params, tokens).as_text()
    print(f"lowered in {time.perf_counter() - began:.2f} s, {len(text)} characters")
    products = [line for line in text.splitlines() if "4096x14336xbf16" in line and "dot_" in line]
    # gate and up: forward, again in the backward pass, and towards the input.
    assert 6 <= len(products) <= 12
    # All that depends on the weights is bfloat16; float32 are logits, scores and statistics.
    assert not [line for line in text.splitlines() if "dot_" in line and "4096x4096xf32" in line]


def test_rotation_keeps_lengths_and_sees_distances() -> None:
    """A turned vector is as long as before; products depend on the distance of positions alone."""
    x = np.random.default_rng(0).normal(size=(1, 12, 2, 8)).astype(np.float32)
    x[:] = x[:, :1]
    turned = rotate(jnp.asarray(x), RotaryConfig(), jnp.arange(12))
    np.testing.assert_allclose(
        np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5
    )
    products = np.einsum("btnh,bsnh->tsn", turned, turned)
    for distance in (0, 3, 7):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[:, :1].repeat(12 - distance, 1), rtol=1e-4)


def test_stretched_frequencies_leave_the_fast_ones() -> None:
    """Llama 3.1's scaling: short wavelengths stay, long ones are stretched by the factor."""
    plain = RotaryConfig(theta=5e5).frequencies(128)
    stretched = RotaryConfig(theta=5e5, factor=8.0).frequencies(128)
    ratio = np.asarray(plain / stretched)
    assert ratio[0] == 1
    assert ratio[-1] == pytest.approx(8)
    assert (np.diff(ratio) >= -1e-6).all()


def test_inputs_are_checked() -> None:
    """Too many positions, floats, one row without a batch."""

    def call(shape: tuple[int, ...], dtype: type = jnp.int32) -> None:
        jax.eval_shape(
            lambda tokens: Decoder(TINY, rngs=nnx.Rngs(0))(tokens),
            jax.ShapeDtypeStruct(shape, dtype),
        )

    with pytest.raises(InputError, match=r"at most 16 positions \(max_length\), got 17"):
        call((2, 17))
    with pytest.raises(InputError, match=r"integers of shape \[B, T\], got float32\[2, 4\]"):
        call((2, 4), jnp.float32)
    with pytest.raises(InputError, match=r"integers of shape \[B, T\], got int32\[4\]"):
        call((4,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "features 64 cannot be divided into 3 heads"),
        ({"kv_heads": 3}, "kv_heads: expected a divisor of the 4 heads, got 3"),
        ({"head_features": 7}, "rotary positions turn pairs, so expected an even number, got 7"),
        ({"norm": "batch"}, "norm: expected one of layer, rms, got 'batch'"),
        ({"remat": "all"}, "remat: expected False, True or one of dots, nothing, got 'all'"),
        ({"attention": "flash"}, "attention: expected one of xla, cudnn, got 'flash'"),
        ({"layer": 3}, "DecoderConfig: unknown fields layer; known are vocab_size, layers"),
    ],
)
def test_settings_are_checked(changes: dict[str, object], message: str) -> None:
    """A mistake is told with the name of its field, before a model is made."""
    with pytest.raises(ConfigError, match=message):
        DecoderConfig.preset("decoder-tiny", **changes)


def test_dropout_is_for_training_alone() -> None:
    """With dropout two calls differ in training mode and are equal in evaluation mode."""
    config = DecoderConfig(**{**fields(TINY), "dropout": 0.5, "layers": 1})

    graphdef, state = nnx.split(filled(abstract(config)))

    @jax.jit
    def run(state: nnx.State, tokens: jax.Array) -> list[jax.Array]:
        model = nnx.merge(graphdef, state, copy=True)
        training = [model(tokens), model(tokens)]
        model.eval()
        return [*training, model(tokens), model(tokens)]

    first, second, third, fourth = run(state, TOKENS)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(third, fourth)
