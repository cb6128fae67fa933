"""The example of ZeRO is the plain data-parallel step, and sends what it says that it sends."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_diabetes

from examples.zero_parameter_server import main, make_zero
from maas_sdk.hlo.collectives import collectives
from maas_sdk.sharding.layout import place_batch
from maas_sdk.sharding.mesh import make_mesh


def loss_fn(params: Any, batch: Any) -> jax.Array:
    hidden = jnp.tanh(batch["x"] @ params["in"] + params["bias"])
    return jnp.mean(jnp.square(hidden @ params["out"] - batch["y"][:, None]))


def start() -> dict[str, jax.Array]:
    """Sizes that no number of owners divides: 70, 7 and 7."""
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        "bias": jnp.zeros(7),
        "in": jax.random.normal(keys[0], (10, 7)),
        "out": jax.random.normal(keys[1], (7, 1)) * 0.1,
    }


def rows(count: int = 64) -> dict[str, np.ndarray[Any, Any]]:
    x, y = load_diabetes(return_X_y=True)
    return {
        "x": (x[:count] * 20).astype(np.float32),
        "y": ((y[:count] - y.mean()) / y.std()).astype(np.float32),
    }


def plain(optimizer: Any, steps: int) -> tuple[Any, list[float]]:
    """The data-parallel step as anyone would write it, on one device."""
    params, batch = start(), rows()
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params: Any, opt_state: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_fn)(params, batch)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    losses = []
    for _ in range(steps):
        params, opt_state, loss = step(params, opt_state)
        losses.append(float(loss))
    return params, losses


@pytest.mark.parametrize(
    ("axes", "optimizer"),
    [
        ({"data": 8}, optax.adamw(1e-2)),
        ({"data": 2, "fsdp": 2, "tensor": 2}, optax.sgd(1e-2, momentum=0.9)),
    ],
)
def test_owners_and_gathers_are_the_plain_step(axes: dict[str, int], optimizer: Any) -> None:
    """Five steps give the losses and weights of one device, for owners along one axis or two."""
    mesh = make_mesh(axes)
    zero = make_zero(loss_fn, optimizer, start(), mesh)
    state, batch, losses = zero.init(start()), place_batch(mesh, rows()), []
    for _ in range(5):
        state, loss = zero.step(state, batch)
        losses.append(float(loss))
    params, expected = plain(optimizer, 5)
    np.testing.assert_allclose(losses, expected, atol=1e-5)
    for found, one in zip(
        jax.tree.leaves(zero.params(state)), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_allclose(found, one, atol=1e-5)
    assert int(state.step) == 5


def test_gradients_are_clipped_by_the_norm_of_all_of_them() -> None:
    """Each owner sees a part, and the scale is that of the whole."""
    mesh = make_mesh({"data": 8})
    zero = make_zero(loss_fn, optax.sgd(0.1), start(), mesh, clip_norm=0.05)
    state, _ = zero.step(zero.init(start()), place_batch(mesh, rows()))
    params, _ = plain(optax.chain(optax.clip_by_global_norm(0.05), optax.sgd(0.1)), 1)
    for found, one in zip(
        jax.tree.leaves(zero.params(state)), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_allclose(found, one, atol=1e-6)
    unclipped, _ = plain(optax.sgd(0.1), 1)
    assert float(jnp.abs(unclipped["in"] - params["in"]).max()) > 1e-3


def test_each_owner_holds_its_part_and_no_more() -> None:
    """Masters and both moments: an eighth per device, padded where eight does not divide."""
    zero = make_zero(loss_fn, optax.adam(0.1), start(), make_mesh({"data": 8}))
    state = zero.init(start())
    moments = state.opt_state[0]
    for tree in (state.masters, moments.mu, moments.nu):
        shards = {name: leaf.addressable_shards[0].data.shape for name, leaf in tree.items()}
        assert shards == {"bias": (1,), "in": (9,), "out": (1,)}
    assert moments.count.sharding.is_fully_replicated


def test_pull_push_and_the_loss_are_all_that_crosses_a_link() -> None:
    """Per parameter one all-gather and one reduce-scatter, and one number for the mean loss.

    ``psum_scatter`` inside ``shard_map`` stays a reduce-scatter on the CPU as well, where the same
    moves left to the compiler (``strategy="fsdp"``) become all-reduces.
    """
    mesh = make_mesh({"data": 8})
    zero = make_zero(loss_fn, optax.adam(0.1), start(), mesh)
    step: Any = zero.step  # a jitted function, which can show its program
    lowered = step.lower(zero.init(start()), place_batch(mesh, rows()))
    found = collectives(lowered.compile().as_text(), mesh.shape)
    assert Counter(one.kind for one in found) == {
        "all-gather": 3,
        "reduce-scatter": 3,
        "all-reduce": 1,
    }
    assert {one.axes for one in found} == {("data",)}
    sizes = {kind: sorted(o.nbytes for o in found if o.kind == kind) for kind in KINDS}
    # float32: 8 and 72 numbers with their padding, of which each owner gets 1 and 9.
    assert sizes == {"all-gather": [32, 32, 288], "reduce-scatter": [4, 4, 36], "all-reduce": [4]}


KINDS = ("all-gather", "reduce-scatter", "all-reduce")


def test_weights_can_travel_in_bfloat16() -> None:
    """Half the bytes go over the links; masters stay float32 and move by less than bfloat16 sees.

    The collectives are read before the CPU's compiler, which has no bfloat16 sums, widens them.
    """
    mesh = make_mesh({"data": 8})
    zero = make_zero(loss_fn, optax.sgd(1e-4), start(), mesh, compute_dtype=jnp.bfloat16)
    state, batch = zero.init(start()), place_batch(mesh, rows())
    before = jax.device_get(state.masters["in"])
    step: Any = zero.step
    lowered = step.lower(state, batch).as_text()
    sent = [line for line in lowered.splitlines() if "stablehlo.all_gather" in line]
    assert len(sent) == 3
    assert all("xbf16>" in line for line in sent)
    state, _ = zero.step(state, batch)
    assert state.masters["in"].dtype == jnp.float32
    moved = np.abs(jax.device_get(state.masters["in"]) - before)[:70]
    assert 0 < np.median(moved) < 2**-9


def test_the_callers_parameters_stay() -> None:
    """A step donates its state, never the arrays that it was made from."""
    params, mesh = start(), make_mesh({"data": 8})
    zero = make_zero(loss_fn, optax.sgd(0.1), params, mesh)
    state = zero.init(params)
    zero.step(state, place_batch(mesh, rows()))
    assert state.masters["in"].is_deleted()
    np.testing.assert_array_equal(params["in"], start()["in"])


def test_a_mesh_without_owners_is_refused() -> None:
    """The message names the axes that owners can lie along."""
    with pytest.raises(ValueError, match=r"along data and fsdp; this mesh has \('tensor',\)"):
        make_zero(loss_fn, optax.sgd(0.1), start(), make_mesh({"tensor": 8}))


def test_the_example_learns(capsys: pytest.CaptureFixture[str]) -> None:
    """Run as it is, it lowers the loss, and each of eight devices holds an eighth, padded."""
    main()
    printed = capsys.readouterr().out
    losses = [float(one) for one in re.findall(r"loss (\S+)", printed)]
    assert losses[-1] < 0.6 * losses[0]
    assert "each of 8 owners holds 2 of 10 weights" in printed
