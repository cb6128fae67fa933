from __future__ import annotations

import json
import re
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from maas_sdk.errors import ConfigError
from maas_sdk.models.mlp import MLPConfig
from maas_sdk.models.presets import MODULES, PRESETS, abstract_model, make_model, preset

PAGE = (Path(__file__).parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
LISTED = dict(re.findall(r"^\| `([\w.-]+)` \| ([\d,]+) \|", PAGE, re.M))


def test_the_page_lists_every_preset() -> None:
    """The table of docs/models.md is complete, in this order."""
    assert list(LISTED) == list(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_every_name_is_a_model(name: str) -> None:
    """Each preset is a frozen configuration, JSON-ready, of a model of the size that is listed."""
    config = preset(name)
    if hasattr(config, "scan_layers"):
        config = replace(config, scan_layers=True)
    assert is_dataclass(config)
    json.dumps(asdict(config))
    assert type(config).__dataclass_params__.frozen
    leaves = jax.tree.leaves(nnx.state(abstract_model(config, param_dtype=jnp.bfloat16), nnx.Param))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    assert f"{sum(leaf.size for leaf in leaves):,}" == LISTED[name]
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.bfloat16)}


def test_a_model_is_made_by_name_or_configuration() -> None:
    """Both spellings give the same module, and one seed the same parameters."""
    by_name = make_model("mlp-digits", rngs=nnx.Rngs(3))
    by_config = make_model(MLPConfig.preset("mlp-digits"), rngs=nnx.Rngs(3))
    same = jax.tree.map(jnp.array_equal, nnx.state(by_name), nnx.state(by_config))
    assert all(jax.tree.leaves(same))
    assert type(by_name) is MODULES[MLPConfig]


def test_what_is_no_model_is_told() -> None:
    """Unknown names list the known ones; anything else names the kinds of configuration."""
    with pytest.raises(ConfigError, match=r"unknown model 'llama4'; known are mlp-digits, .*gpt2"):
        preset("llama4")
    with pytest.raises(ConfigError, match=r"one of ConvNetConfig, .*ResNetConfig, got int"):
        make_model(3, rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match=r"MLPConfig: unknown fields width; known are features"):
        preset("mlp-digits", width=3)
    with pytest.raises(ConfigError, match=r"MLPConfig: unknown preset 'gpt2'; known are mlp-dig"):
        MLPConfig.preset("gpt2")
