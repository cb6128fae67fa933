"""Strategies by name, and the promise behind all of them: the same training as on one device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.datasets import load_digits

from maas_sdk.errors import ConfigError
from maas_sdk.hlo.collectives import collectives
from maas_sdk.models.attention import Attention, FeedForward
from maas_sdk.models.embedding import head
from maas_sdk.models.mlp import MLP, MLPConfig
from maas_sdk.sharding.layout import (
    batch_sharding,
    lay_out,
    place,
    place_batch,
    replicated,
    state_shardings,
)
from maas_sdk.sharding.mesh import make_mesh
from maas_sdk.sharding.strategies import STRATEGIES, mesh_for, strategy_by_name

MIXED = (("data", 2), ("fsdp", 2), ("tensor", 2))


class Block(nnx.Module):
    """Rows of an 8×8 digit as 8 positions, one attention block, 16 classes (10 are used)."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        given: Any = {"std": 0.2, "out_std": 0.2, "rngs": rngs}
        self.attention = Attention(8, heads=8, kv_heads=8, head_features=4, causal=False, **given)
        self.mlp = FeedForward(8, 32, activation_name="gelu", **given)
        self.head = head(64, 16, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(-1, 8, 8)
        x = x + self.attention(x)
        x = x + self.mlp(x)
        return self.head(x.reshape(x.shape[0], 64))


def mlp() -> nnx.Module:
    return MLP(MLPConfig(features=64, hidden_features=(32, 32), outputs=16), rngs=nnx.Rngs(0))


MODELS = {"mlp": mlp, "attention": lambda: Block(nnx.Rngs(0))}


def digits() -> dict[str, np.ndarray[Any, Any]]:
    images, labels = load_digits(return_X_y=True)
    return {"inputs": (images[:32] / 16).astype(np.float32), "labels": labels[:32]}


def step_of(graphdef: Any, optimizer: Any, out_shardings: Any = None) -> Any:
    """A training step as anyone would write it for one device."""

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        logits = nnx.merge(graphdef, params)(batch["inputs"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()

    def step(params: Any, opt_state: Any, batch: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_fn)(params, batch)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    return jax.jit(step, out_shardings=out_shardings, donate_argnums=(0, 1))


@cache
def trained(
    name: str, strategy: str | None, axes: tuple[tuple[str, int], ...] | None = None
) -> tuple[list[float], Any, str]:
    """Losses of five steps, the weights after them, and the compiled step's text."""
    graphdef, params = nnx.split(MODELS[name](), nnx.Param)
    # With Adam's usual eps of 1e-8, a gradient that is nothing but rounding (a key's bias: the
    # softmax does not see it) would make full steps, in a direction that depends on the layout.
    optimizer = optax.adamw(1e-2, eps=1e-3, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p))
    mesh = (
        make_mesh({"data": 1}) if strategy is None else mesh_for(strategy, axes=axes and dict(axes))
    )
    layout = lay_out(params, mesh, strategy=strategy or "data", min_shard_bytes=0)
    opt_state = optimizer.init(params)
    following = state_shardings(layout, opt_state)
    params, opt_state = place(params, layout.shardings), place(opt_state, following)
    batch = place_batch(mesh, digits())
    step = step_of(graphdef, optimizer, (layout.shardings, following, replicated(mesh)))
    # Less work on machine code, the same collectives: the compiler is most of this test's time.
    quickly = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    compiled = step.lower(params, opt_state, batch).compile(compiler_options=quickly)
    losses = []
    for _ in range(5):
        params, opt_state, loss = compiled(params, opt_state, batch)
        losses.append(float(loss))
    return losses, jax.device_get(params), compiled.as_text()


@pytest.mark.parametrize(
    ("name", "strategy", "axes"),
    [
        ("mlp", "pmap", None),
        *((name, each, None) for name in MODELS for each in STRATEGIES if each != "pmap"),
        *((name, "fsdp+tensor", MIXED) for name in MODELS),
    ],
)
def test_a_strategy_changes_where_and_not_what(name: str, strategy: str, axes: Any) -> None:
    """Losses and weights of five steps are those of one device within 1e-5, in float32."""
    losses, params, _ = trained(name, strategy, axes)
    expected, weights, _ = trained(name, None)
    assert expected[-1] < expected[0]
    np.testing.assert_allclose(losses, expected, atol=1e-5)
    for found, one in zip(jax.tree.leaves(params), jax.tree.leaves(weights), strict=True):
        np.testing.assert_allclose(found, one, atol=1e-5)


def kinds(text: str, mesh: Mapping[str, int]) -> Counter[Any]:
    return Counter((one.kind, one.axes) for one in collectives(text, mesh))


@pytest.mark.parametrize(
    ("name", "strategy"), [("mlp", "pmap"), ("mlp", "data"), ("attention", "data")]
)
def test_data_parallelism_is_one_all_reduce(name: str, strategy: str) -> None:
    """All gradients and the loss are summed in one collective; there is no other."""
    _, params, text = trained(name, strategy)
    (one,) = collectives(text, {"data": 8})
    assert (one.kind, one.axes, one.group_size) == ("all-reduce", ("data",), 8)
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert one.nbytes == parameters + 4


def test_tensor_parallelism_sums_once_per_pair_of_layers_and_direction() -> None:
    """Nothing but sums of activations along ``tensor``: no weight and no gradient is moved."""
    for name in MODELS:
        found = kinds(trained(name, "tensor")[2], {"tensor": 8})
        assert set(found) == {("all-reduce", ("tensor",))}, name
    # The MLP, forward: after the second layer of the pair, and the softmax over logits that stay
    # cut (its maximum, sum and the label's own). Backward: into the first layer of each pair.
    assert kinds(trained("mlp", "tensor")[2], {"tensor": 8})["all-reduce", ("tensor",)] <= 5


def test_fsdp_gathers_weights_and_sums_gradients() -> None:
    """All-gathers and sums along ``fsdp``, and nothing else.

    The CPU's compiler writes the reduce-scatter of a gradient as an all-reduce of which each device
    keeps its part (jaxlib 0.10.2); the TPU's makes reduce-scatters of large ones (see the programs
    of ``golden/hlo`` and their test).
    """
    found = kinds(trained("mlp", "fsdp")[2], {"fsdp": 8})
    assert set(found) == {("all-gather", ("fsdp",)), ("all-reduce", ("fsdp",))}
    # Three kernels forward, of which two are needed again backward.
    assert 3 <= found["all-gather", ("fsdp",)] <= 6


def test_fsdp_and_tensor_keep_to_their_axes() -> None:
    """Weights are gathered along ``fsdp`` only, activations summed along ``tensor`` only."""
    mesh = {"fsdp": 4, "tensor": 2}
    found = kinds(trained("mlp", "fsdp+tensor")[2], mesh)
    assert set(found) == {
        ("all-gather", ("fsdp",)),
        ("all-reduce", ("fsdp",)),
        ("all-reduce", ("tensor",)),
    }


@pytest.mark.parametrize(
    ("strategy", "shape"),
    [
        ("pmap", {"data": 8}),
        ("data", {"data": 8}),
        ("data_parallel", {"data": 8}),
        ("fsdp", {"fsdp": 8}),
        ("tensor", {"tensor": 8}),
        ("fsdp+tensor", {"fsdp": 4, "tensor": 2}),
    ],
)
def test_every_spelling_is_a_mesh_over_all_devices(strategy: str, shape: dict[str, int]) -> None:
    """A name is enough; ``pmap`` and ``data_parallel`` are spellings of ``data``."""
    assert dict(mesh_for(strategy).shape) == shape


def test_an_odd_number_of_devices_has_a_mesh_too() -> None:
    """``fsdp+tensor`` on 3 devices cuts over fsdp alone."""
    assert dict(mesh_for("fsdp+tensor", devices=jax.devices()[:3]).shape) == {
        "fsdp": 3,
        "tensor": 1,
    }


def test_axes_can_be_chosen() -> None:
    """With sizes of one's own, ``model`` counts as ``tensor``."""
    assert dict(mesh_for("tensor", axes={"data": -1, "model": 2}).shape) == {"data": 4, "tensor": 2}


def test_an_unknown_strategy_is_refused() -> None:
    """The message lists what there is."""
    with pytest.raises(ConfigError, match=r"'magic'; known are data, fsdp, fsdp\+tensor, pmap"):
        strategy_by_name("magic")


def test_a_mesh_without_the_strategys_axis_is_refused() -> None:
    """The message says which axis is missing and what the mesh has."""
    with pytest.raises(
        ConfigError, match="'fsdp' cuts weights over the mesh axis 'fsdp'; the mesh"
    ):
        mesh_for("fsdp", axes={"data": -1})


def test_rows_are_cut_over_data_and_fsdp() -> None:
    """Devices along ``tensor`` see the same rows."""
    sharding = batch_sharding(make_mesh(dict(MIXED)))
    assert sharding.shard_shape((16, 3)) == (4, 3)
