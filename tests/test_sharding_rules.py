from __future__ import annotations

from typing import Any

import pytest
from flax import nnx

from maas_sdk.errors import ConfigError
from maas_sdk.models.mlp import MLP, MLPConfig
from maas_sdk.models.transformer import Decoder, Encoder
from maas_sdk.models.transformer_config import DecoderConfig, EncoderConfig
from maas_sdk.sharding.leaves import leaves_of
from maas_sdk.sharding.rules import RULES, Rule, first_match, rules_by_name


def test_the_first_rule_that_matches_decides() -> None:
    """Order is the only priority: a narrow rule belongs in front of a wide one."""
    narrow, wide = Rule("head/kernel$", (None,)), Rule("kernel", ("fsdp",))
    assert first_match((narrow, wide), "head/kernel") is narrow
    assert first_match((narrow, wide), "hidden/0/kernel") is wide
    assert first_match((narrow, wide), "hidden/0/bias") is None


def test_a_quantized_weight_goes_by_its_own_name() -> None:
    """A rule for a kernel holds for the int8 numbers that took its place."""
    rule = Rule("head/kernel$", ("fsdp", "tensor"))
    for path in ("head/kernel", "head/kernel/qvalue", "head/kernel/array/qvalue"):
        assert first_match((rule,), path) is rule
    assert first_match((rule,), "head/kernel/scale") is None


def test_axes_are_spelled_in_one_way() -> None:
    """``model`` is ``tensor``; a tuple of one axis is the axis, of none is None."""
    rule = Rule("x", ("model", ("data", "fsdp"), ()))
    assert rule.partition == ("tensor", ("data", "fsdp"), None)
    assert str(rule) == "x → tensor, data+fsdp, -"


@pytest.mark.parametrize(
    ("pattern", "partition", "message"),
    [
        ("a(", (None,), r"rule 'a\(': not a regular expression"),
        ("a", ("rows",), "rule 'a': unknown axis 'rows'; known are data, stage"),
        ("a", (3,), "rule 'a': expected an axis, a tuple of axes or None, got 3"),
        ("a", ("tensor", "model"), "axis 'tensor' cuts two dimensions of one parameter"),
        ("a", (("data", "data"),), "axis 'data' cuts two dimensions"),
    ],
)
def test_what_is_no_rule_is_refused(pattern: str, partition: Any, message: str) -> None:
    """The message names the rule and what is wrong with it."""
    with pytest.raises(ConfigError, match=message):
        Rule(pattern, partition)


def test_an_unknown_preset_is_refused() -> None:
    """The message lists what there is."""
    with pytest.raises(ConfigError, match="unknown rules 'x'; known are mlp, standard, transf"):
        rules_by_name("x")
    assert rules_by_name("mlp") is RULES["mlp"]


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("preset", ["gpt2", "llama3-8b"])
def test_every_large_parameter_of_the_decoders_has_a_rule(preset: str, scan: bool) -> None:
    """No matrix of the package's transformers is left to chance, as layers or stacked."""
    config = DecoderConfig.preset(preset, scan_layers=scan)
    leaves = leaves_of(nnx.eval_shape(lambda: nnx.state(Decoder(config, rngs=nnx.Rngs(0)))))
    # What has no rule is a norm, or a bias that tensor parallelism leaves whole.
    without = [leaf for leaf in leaves if first_match(RULES["standard"], leaf.name) is None]
    assert all("norm" in leaf.name or leaf.name.endswith("bias") for leaf in without)
    assert sum(leaf.nbytes for leaf in without) < 0.001 * sum(leaf.nbytes for leaf in leaves)


def test_every_rule_of_the_presets_is_about_something() -> None:
    """A rule that none of our models needs would be a name that has changed."""

    def paths(make: Any) -> list[str]:
        return [leaf.name for leaf in leaves_of(nnx.eval_shape(lambda: nnx.state(make())))]

    found = [
        *paths(lambda: Decoder(DecoderConfig.preset("gpt2", tied=False), rngs=nnx.Rngs(0))),
        *paths(lambda: Decoder(DecoderConfig.preset("decoder-tiny"), rngs=nnx.Rngs(0))),
        *paths(lambda: Encoder(EncoderConfig.preset("bert-base"), rngs=nnx.Rngs(0))),
        *paths(lambda: MLP(MLPConfig.preset("mlp-digits"), rngs=nnx.Rngs(0))),
    ]
    for rule in RULES["standard"]:
        assert any(first_match((rule,), path) for path in found), str(rule)
