from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from maas_sdk.errors import ConfigError
from maas_sdk.training.precision import Policy

FULL = Policy()
MIXED = Policy(compute="bfloat16")


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("f32", FULL),
        ("bf16", MIXED),
        ("bfloat16", MIXED),
        ("params=float32,compute=bfloat16,output=float32", MIXED),
        ("p=f32,c=bf16", MIXED),
        (" c = bf16 , o = f16 ", Policy(compute="bfloat16", output="float16")),
    ],
)
def test_the_grammar(text: str, policy: Policy) -> None:
    """Short and long spellings are one policy, and its own spelling reads back as itself."""
    assert Policy.parse(text) == policy
    assert Policy.parse(str(policy)) == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown dtype compute=''"),
        ("int8", "unknown dtype compute='int8'; known are bf16"),
        ("weights=f32", "unknown field 'weights'; expected params=, compute= or output="),
        ("c=bf16,compute=f32", "compute is given twice"),
        ("c=", "unknown dtype compute=''"),
    ],
)
def test_what_is_not_a_policy_is_refused(text: str, message: str) -> None:
    """The message names the field and what it may be."""
    with pytest.raises(ConfigError, match=message):
        Policy.parse(text)


def test_only_floats_are_cast() -> None:
    """Integers and random keys pass as they are; floats of any width are cast."""
    tree = {"w": jnp.ones(2), "n": jnp.arange(2), "key": jax.random.key(0)}
    cast = MIXED.cast_compute(tree)
    assert cast["w"].dtype == jnp.bfloat16
    assert cast["n"].dtype == tree["n"].dtype
    assert cast["key"].dtype == tree["key"].dtype
    assert MIXED.cast_params(cast)["w"].dtype == jnp.float32
    assert MIXED.cast_output(cast)["w"].dtype == jnp.float32
