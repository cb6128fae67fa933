from __future__ import annotations

import pydoc_data.topics
import sysconfig
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.models.rotary import RotaryConfig
from maas_sdk.models.transformer import Encoder
from maas_sdk.models.transformer_config import EncoderConfig
from maas_sdk.training.data import Examples, stratified_split
from maas_sdk.training.optimizer import OptimizerConfig
from maas_sdk.training.run.trainer import TrainConfig, Trainer

TINY = {
    "vocab_size": 11,
    "layers": 1,
    "features": 8,
    "heads": 2,
    "hidden_features": 12,
    "max_length": 16,
    "dropout": 0.0,
    "init_std": 0.3,
}
TOKENS = np.random.default_rng(0).integers(1, 11, (2, 10))


def answers(tokens: np.ndarray, *, given: dict[str, object] | None = None, **fields: object):
    """Logits of a model whose parameters depend on their shapes alone."""
    model = nnx.eval_shape(lambda: Encoder(EncoderConfig(**{**TINY, **fields}), rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    draw = np.random.RandomState(0)
    state = jax.tree.map(lambda leaf: jnp.asarray(0.3 * draw.standard_normal(leaf.shape)), state)
    run = jax.jit(lambda state, tokens, given: nnx.merge(graphdef, state)(tokens, **given))
    return np.asarray(run(state, tokens, given or {}))


def windows(text: bytes) -> np.ndarray:
    stream = np.frombuffer(text[:60_000], np.uint8).astype(np.int32)
    return stream[np.arange(0, len(stream) - 32, 64)[:, None] + np.arange(32)]


@pytest.mark.slow
def test_code_is_told_from_prose() -> None:
    """32 bytes of Python source or of its documentation: over 80 % right after three epochs."""
    code = windows((Path(sysconfig.get_paths()["stdlib"]) / "argparse.py").read_bytes())
    prose = windows("\n".join(pydoc_data.topics.topics.values()).encode())
    examples = Examples(
        inputs=np.concatenate([code, prose]), labels=np.repeat([0, 1], [len(code), len(prose)])
    )
    config = EncoderConfig.preset(
        "bert-tiny", vocab_size=256, features=32, heads=2, hidden_features=64, dropout=0.0
    )
    how = TrainConfig(epochs=3, mesh={"data": 1}, optimizer=OptimizerConfig(learning_rate=5e-3))
    result = Trainer(how).fit(
        Encoder(config, rngs=nnx.Rngs(0)), stratified_split(examples, test_fraction=0.2, seed=0)
    )
    assert result.best.eval["accuracy"] > 0.8


# The parts that Llama has, in an encoder.
LLAMA_PARTS = {
    "rotary": RotaryConfig(),
    "norm": "rms",
    "kv_heads": 1,
    "activation": "silu",
    "gated": True,
    "use_bias": False,
}


@pytest.mark.parametrize("parts", [{}, LLAMA_PARTS], ids=["bert", "llama's parts"])
@pytest.mark.parametrize("task", ["classify", "fill"])
def test_padding_is_never_looked_at(task: str, parts: dict[str, object]) -> None:
    """A row padded to its batch is answered as it is alone: by its pad token, or by a mask."""
    padded = TOKENS.copy()
    padded[1, 6:] = 0
    parts = {**parts, "task": task}
    alone = answers(TOKENS[1:, :6], **parts)
    by_token = answers(padded, **parts, pad_token=0)
    by_mask = answers(padded, **parts, given={"mask": np.repeat([[1, 0]], [6, 4], axis=1)})
    for found in (by_token, by_mask):
        row = found[1:] if task == "classify" else found[1:, :6]
        np.testing.assert_allclose(row, alone, atol=1e-5)
    assert not np.allclose(answers(padded, **parts)[1:], by_token[1:], atol=1e-3)


def test_types_and_both_directions_count() -> None:
    """The first position's answer depends on the last token, and on which text a token is from."""
    plain = answers(TOKENS)
    changed = TOKENS.copy()
    changed[:, -1] = changed[:, -1] % 10 + 1
    assert np.abs(answers(changed) - plain).max() > 1e-4
    types = np.repeat([[0, 1]], 5, axis=1).repeat(2, axis=0)
    assert np.abs(answers(TOKENS, given={"types": types}) - plain).max() > 1e-4
    np.testing.assert_array_equal(answers(TOKENS, given={"types": 0 * types}), plain)


def test_logits_are_float32_whatever_the_layers_compute_in() -> None:
    """A bfloat16 copy of either task hands out float32 logits; products with weights are not."""
    for task in ("classify", "fill"):
        model = nnx.eval_shape(
            lambda task=task: Encoder(
                EncoderConfig(**TINY, task=task), rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16
            )
        )
        graphdef, state = nnx.split(model)
        lowered = jax.jit(
            lambda state, graphdef=graphdef: nnx.merge(graphdef, state)(TOKENS)
        ).lower(state)
        assert lowered.out_info.dtype == jnp.float32
        weighted = [line for line in lowered.as_text().splitlines() if "8x12x" in line]
        assert weighted
        assert not any("8x12xf32" in line for line in weighted)


def test_misfits_are_told() -> None:
    """Too many positions, another dtype, heads that do not divide."""
    with pytest.raises(InputError, match=r"at most 16 positions \(max_length\), got 17"):
        answers(np.zeros((1, 17), np.int32))
    with pytest.raises(InputError, match=r"integers of shape \[B, T\], got float32\[1, 3\]"):
        answers(np.zeros((1, 3), np.float32))
    model = Encoder(EncoderConfig(**TINY, pad_token=0), rngs=nnx.Rngs(0))
    model.layers = nnx.LayerNorm(8, rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match="in place of the blocks take none"):
        model(TOKENS)
    with pytest.raises(ConfigError, match="features 8 cannot be divided into 3 heads"):
        EncoderConfig(**{**TINY, "heads": 3})
    with pytest.raises(ConfigError, match="task: expected one of classify, fill, got 'embed'"):
        EncoderConfig(**TINY, task="embed")
