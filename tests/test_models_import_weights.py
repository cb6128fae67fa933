from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.models.huggingface_config import config_from_transformers
from maas_sdk.models.import_weights import load_weights
from maas_sdk.models.transformer_config import DecoderConfig

GOLDEN = Path(__file__).parent / "golden" / "models"


def checkpoint(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A configuration of transformers, and tensors in the shapes of its checkpoint."""
    document = json.loads((GOLDEN / f"{name}.json").read_text())
    draw = np.random.RandomState(0)
    tensors = {
        key: draw.standard_normal(shape).astype(np.float32)
        for key, shape in document["tensors"].items()
    }
    return document["config"]["fields"], tensors


@pytest.fixture
def llama() -> tuple[DecoderConfig, dict[str, np.ndarray]]:
    fields, tensors = checkpoint("llama")
    return config_from_transformers(fields), tensors


def test_missing_tensors_are_named(llama: tuple[DecoderConfig, dict[str, np.ndarray]]) -> None:
    """What is not there is listed, with a way out; nothing is loaded."""
    config, tensors = llama
    del tensors["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(InputError, match=r"missing: layers\.1\.mlp\.up_proj\.weight; .*new="):
        load_weights(config, tensors)
    with pytest.raises(InputError, match="and 16 more"):
        load_weights(config, {})


def test_tensors_left_over_are_named(llama: tuple[DecoderConfig, dict[str, np.ndarray]]) -> None:
    """A tensor that no parameter takes is an error, unless it is named as not wanted."""
    config, tensors = llama
    tensors["model.layers.2.mlp.up_proj.weight"] = np.zeros((24, 16), np.float32)
    with pytest.raises(InputError, match=r"left over: model\.layers\.2\.mlp\.up.*ignore="):
        load_weights(config, tensors)
    load_weights(config, tensors, ignore=(r"layers\.2\.",))


def test_shapes_are_named(llama: tuple[DecoderConfig, dict[str, np.ndarray]]) -> None:
    """An ill-shaped tensor is named with its shape, the parameter's and what it would become."""
    config, tensors = llama
    name = "model.layers.0.mlp.down_proj.weight"
    tensors[name] = np.zeros((16, 20), np.float32)
    message = (
        r"layers/0/mlp/down/kernel: expected \[24, 16\], got model\.layers\.0\.mlp\.down_proj"
        r"\.weight \[16, 20\], which becomes \[20, 16\]; does the configuration fit"
    )
    with pytest.raises(InputError, match=message):
        load_weights(config, tensors)
    tensors[name] = np.zeros(16, np.float32)
    with pytest.raises(InputError, match=r"expected \[24, 16\], got .* \[16\]; does the conf"):
        load_weights(config, tensors)


def test_patterns_that_match_nothing_are_told(
    llama: tuple[DecoderConfig, dict[str, np.ndarray]],
) -> None:
    """A misspelt pattern is not silently without effect."""
    config, tensors = llama
    with pytest.raises(InputError, match=r"new: 'classifier' matches none of embed/embedding"):
        load_weights(config, tensors, new=("classifier",))
    with pytest.raises(InputError, match="ignore: 'cls' matches none of model"):
        load_weights(config, tensors, ignore=("cls",))


def test_a_checkpoint_without_a_head_gets_a_new_one() -> None:
    """A classifier of five classes over the trunk of one of three; its dropout works."""
    fields, tensors = checkpoint("bert-classify")
    config = config_from_transformers(fields, classes=5)
    assert config.dropout == 0.1
    model = load_weights(config, tensors, new=("^head/",), rngs=nnx.Rngs(1))
    assert model.head.kernel[...].shape == (16, 5)
    assert np.ptp(model.head.kernel[...]) > 0
    np.testing.assert_array_equal(
        model.embed.embedding[...], tensors["bert.embeddings.word_embeddings.weight"]
    )
    tokens = np.ones((1, 4), np.int32)
    assert not np.array_equal(model(tokens), model(tokens))


def test_prefixes_and_copies_are_optional() -> None:
    """A trunk saved alone has no prefix; a tied head may be there as a copy or not at all."""
    fields, tensors = checkpoint("gpt2")
    config = config_from_transformers(fields, dropout=0.0)
    alone = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    del alone["lm_head.weight"]
    whole, trunk = load_weights(config, tensors), load_weights(config, alone)
    equal = jax.tree.map(np.array_equal, nnx.state(whole), nnx.state(trunk))
    assert all(jax.tree.leaves(equal))


def test_dtype_and_devices_are_the_callers(
    llama: tuple[DecoderConfig, dict[str, np.ndarray]],
) -> None:
    """``param_dtype`` holds for all; ``put`` places each leaf, stacked ones in one piece."""
    config, tensors = llama
    config = config_from_transformers(checkpoint("llama")[0], scan_layers=True)
    second = jax.devices()[1]
    seen: dict[str, tuple[int, ...]] = {}

    def put(path: str, value: np.ndarray) -> jax.Array:
        seen[path] = value.shape
        return jax.device_put(value, second)

    model = load_weights(config, tensors, param_dtype=jnp.bfloat16, put=put)
    leaves = jax.tree.leaves(nnx.state(model))
    assert {(leaf.dtype, *leaf.devices()) for leaf in leaves} == {(jnp.dtype(jnp.bfloat16), second)}
    assert seen["layers/attention/query/kernel"] == (2, 16, 16)
    assert len(seen) == 12


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("llama", {"model_type": "mamba"}, "model_type: expected one of bert, gpt2, llama, resnet"),
        ("llama", {"attention_bias": True}, "attention_bias without mlp_bias"),
        ("llama", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type 'yarn' is not built"),
        ("llama", {"hidden_size": None}, "llama: the configuration has no field 'hidden_size'"),
        ("llama", {"hidden_act": "quick"}, "activation: unknown 'quick'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "= True is not built; only False is"),
        ("bert-fill", {"is_decoder": True}, "bert: is_decoder = True is not built"),
        ("resnet-basic", {"embedding_size": 3}, "expected an embedding_size of 8"),
    ],
)
def test_variants_that_are_not_built_are_refused(
    name: str, change: dict[str, Any], message: str
) -> None:
    """A field that would change the answers is an error, never left out."""
    fields = {**checkpoint(name)[0], **change}
    fields = {key: value for key, value in fields.items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        config_from_transformers(fields)


def test_older_configurations_of_llama_are_read() -> None:
    """Before release 5 of transformers the rotation was two fields."""
    fields, _ = checkpoint("llama3.1")
    found = dict(fields)
    scaling = dict(found.pop("rope_parameters"))
    found["rope_theta"] = scaling.pop("rope_theta")
    found["rope_scaling"] = scaling
    assert config_from_transformers(found) == config_from_transformers(fields)


def test_only_configurations_are_taken() -> None:
    """A name is not enough to know the shapes of a checkpoint."""
    with pytest.raises(ConfigError, match=r"load_weights: expected one of DecoderConfig, .* str"):
        load_weights("gpt2", {})
