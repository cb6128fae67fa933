from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from maas_sdk.errors import ConfigError
from maas_sdk.training.checkpoints.named_state import (
    differences,
    named_arrays,
    named_specs,
    nest,
    raw,
    stored_spec,
    typed,
    unnest,
)


class Pair(NamedTuple):
    first: Any
    second: Any


def test_names_are_paths() -> None:
    """Keys, fields and positions joined by slashes; what nnx wraps around an array is no part."""
    linear = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    _, params = nnx.split(linear)
    tree = {
        "params": {"layers": [params]},
        "opt": optax.chain(optax.clip(1.0), optax.adam(1e-3)).init(params),
        "pair": Pair(jnp.zeros(1), {"a/b": jnp.zeros(2), "50%": jnp.zeros(3)}),
    }
    assert list(named_arrays(tree)) == [
        *("opt/1/0/count", "opt/1/0/mu/bias", "opt/1/0/mu/kernel"),
        *("opt/1/0/nu/bias", "opt/1/0/nu/kernel", "pair/first"),
        *("pair/second/50%", "pair/second/a/b"),
        *("params/layers/0/bias", "params/layers/0/kernel"),
    ]
    assert list(named_arrays(jnp.zeros(3))) == ["weights"]


def test_two_leaves_of_one_name_are_refused() -> None:
    """A number and its text as keys would be one name."""

    @jax.tree_util.register_pytree_with_keys_class
    class Odd:
        def tree_flatten_with_keys(self) -> Any:
            keys = (jax.tree_util.DictKey("1"), jax.tree_util.DictKey(1))
            return [(key, jnp.zeros(2)) for key in keys], None

        @classmethod
        def tree_unflatten(cls, _aux: Any, _children: Any) -> Any:
            return cls()

    with pytest.raises(ConfigError, match="two leaves of the state have the name '1'"):
        named_arrays(Odd())


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_typed_keys_go_through_numbers(impl: str) -> None:
    """A key, or an array of them, is its numbers on the disk and the same key afterwards."""
    keys = jax.random.split(jax.random.key(5, impl=impl), 3)
    numbers = raw(keys)
    assert numbers.dtype == jnp.uint32
    again = typed(numbers, str(keys.dtype))
    assert again.dtype == keys.dtype
    np.testing.assert_array_equal(jax.random.key_data(again), jax.random.key_data(keys))
    spec = named_specs({"k": keys})["k"]
    assert (spec.dtype, spec.shape) == (keys.dtype, (3,))
    assert stored_spec(spec).shape == numbers.shape
    assert stored_spec(spec).dtype == numbers.dtype
    array = jnp.ones(2)
    assert raw(array) is array
    assert typed(array, "float32") is array


def test_keys_of_a_generator_that_jax_does_not_have_are_refused() -> None:
    """Saved by another jax: said by name."""
    with pytest.raises(ConfigError, match=r"random keys of dtype key<other>: no generator"):
        typed(jnp.zeros(2, jnp.uint32), "key<other>")


def test_differences_are_told_leaf_by_leaf() -> None:
    """What is missing, added, of another shape, of another dtype, of both; nothing for the same."""

    same: Any = {"a": ("float32", (2,)), "b": ("int8", ())}
    same |= {"c": ("int8", (4,)), "d": ("bool", (1,))}
    here = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (dtype, shape) in same.items()}
    there: Any = {
        "a": ("float32", (3,)),
        "c": ("int4", (4,)),
        "d": ("int8", (2,)),
        "e": ("bool", ()),
    }
    assert differences(here, same) == []
    assert differences(here, there) == [
        "a: expected shape float32[2], the checkpoint has float32[3]",
        "b: expected int8[], the checkpoint does not have it",
        "c: expected dtype int8[4], the checkpoint has int4[4]",
        "d: expected bool[1], the checkpoint has int8[2]",
        "e: not expected, the checkpoint has bool[]",
    ]


def test_nesting_goes_both_ways() -> None:
    """Names to a tree and back; a name that begins with another's has a place beside it."""
    named = {"a/b/c": 1, "a/d": 2, "e": 3}
    assert nest(named) == {"a": {"b": {"c": 1}, "d": 2}, "e": 3}
    assert unnest(nest(named), named) == named
    inside = {"a/w": 1, "a/w/scale": 2, "a/w/x/y": 3}
    assert nest(inside) == {"a": {"w": 1, "w%2Fscale": 2, "w%2Fx%2Fy": 3}}
    assert unnest(nest(inside), inside) == inside
    # A part of it has the places that it has in the whole.
    part = {"a/w/scale": 2}
    assert nest(part, among=inside) == {"a": {"w%2Fscale": 2}}
    assert unnest(nest(part, among=inside), inside) == part
    with pytest.raises(ConfigError, match="two leaves of the state have the name"):
        nest({"a": 1, "a/b": 2, "a%2Fb": 3})
