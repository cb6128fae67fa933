from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from maas_sdk.errors import InputError
from maas_sdk.sharding.leaves import leaves_of


class Pair(nnx.Module):
    """Two layers, one of them annotated."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        init = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("embed", "mlp"))
        self.layers = nnx.List(
            [nnx.Linear(2, 4, kernel_init=init, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)]
        )


def pair() -> Pair:
    with nnx.use_eager_sharding(False):
        return Pair(nnx.Rngs(0))


def test_names_are_the_same_from_every_library() -> None:
    """nnx variables and linen's boxes add nothing to a parameter's path."""
    names = [leaf.name for leaf in leaves_of(nnx.state(pair()))]
    assert names == ["layers/0/bias", "layers/0/kernel", "layers/1/bias", "layers/1/kernel"]
    init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("embed", "mlp"))
    linen = nn.Dense(4, kernel_init=init).init(jax.random.key(0), jnp.ones((1, 2)))
    assert [leaf.name for leaf in leaves_of(linen)] == ["params/bias", "params/kernel"]
    assert [leaf.name for leaf in leaves_of(({"a": [np.ones(2)]},))] == ["0/a/0"]


def test_annotations_of_both_libraries_are_read() -> None:
    """``nnx.with_partitioning`` and ``nn.with_logical_partitioning`` name dimensions alike."""
    annotated = {leaf.name: leaf.axes for leaf in leaves_of(nnx.state(pair()))}
    assert annotated["layers/0/kernel"] == ("embed", "mlp")
    assert annotated["layers/1/kernel"] is None
    init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("embed", "mlp"))
    linen = nn.Dense(4, kernel_init=init).init(jax.random.key(0), jnp.ones((1, 2)))
    assert {leaf.name: leaf.axes for leaf in leaves_of(linen)} == {
        "params/bias": None,
        "params/kernel": ("embed", "mlp"),
    }


def test_optimizer_state_has_the_names_of_its_weights() -> None:
    """A moment's path ends in the path of its parameter."""
    state = optax.adam(0.1).init(nnx.state(pair()))
    names = [leaf.name for leaf in leaves_of(state)]
    assert "0/mu/layers/0/kernel" in names
    assert "0/count" in names


def test_leaves_come_in_the_order_of_the_tree() -> None:
    """One leaf per leaf of ``jax.tree.leaves``, with its shape and dtype; shapes alone will do."""
    state = nnx.state(pair())
    for tree in (state, jax.eval_shape(lambda: state), optax.adam(0.1).init(state)):
        found = [(leaf.shape, leaf.dtype) for leaf in leaves_of(tree)]
        assert found == [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def test_bytes_know_of_small_dtypes() -> None:
    """Four bits are half a byte."""
    leaf = leaves_of({"w": jax.ShapeDtypeStruct((3, 5), jnp.int4)})[0]
    assert leaf.nbytes == 8
    assert leaves_of({"w": jax.ShapeDtypeStruct((3, 5), jnp.bfloat16)})[0].nbytes == 30


def test_what_is_no_array_is_refused() -> None:
    """The message names the leaf and what would do."""
    with pytest.raises(InputError, match=r"parameter 'a/b': expected an array .* got str"):
        leaves_of({"a": {"b": "weights"}})
