"""The synchronous parameter server with no server (ZeRO), written out to be read and changed.

A parameter server (Li et al. 2014) owns weights and optimizer state; workers fetch weights and send
gradients. Here every device serves its part (Rajbhandari et al. 2020, section 5): *pull* gathers
the weights from their owners, each device computes gradients of its own rows, *push* gives each
owner the sum of its part. The compiler does the same for ``strategy="fsdp"``. n: owners. Run

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python examples/zero_parameter_server.py
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from sklearn.datasets import load_diabetes

from maas_sdk.sharding import make_mesh, place_batch


class ZeroState(NamedTuple):
    """State of the owners; parameters lie flat, padded with zeros, cut into n parts."""

    step: jax.Array  # int32[], whole on every device
    masters: Any
    opt_state: Any


class Zero(NamedTuple):
    """Three functions that belong together."""

    init: Callable[[Any], ZeroState]  # parameters → the state of step 0
    step: Callable[..., Any]  # (state, batch cut by rows) → (new state, mean loss); takes the state
    params: Callable[[ZeroState], Any]  # state → parameters, whole on every device


def flat(x: jax.Array, n: int) -> jax.Array:
    return jnp.pad(x.reshape(-1), (0, -x.size % n))


def make_zero(
    loss_fn: Callable[[Any, Any], jax.Array],  # (parameters, rows) → their mean loss, float[]
    optimizer: optax.GradientTransformation,  # one that treats each number by itself, like adamw
    params: Any,  # arrays or shapes: the structure and dtypes of ``init``'s argument
    mesh: jax.sharding.Mesh,
    *,
    compute_dtype: Any = None,  # weights are sent in it and gradients summed in it
    clip_norm: float | None = None,  # of all gradients together
) -> Zero:
    if not (axes := tuple(axis for axis in ("data", "fsdp") if axis in mesh.axis_names)):
        raise ValueError(f"owners lie along data and fsdp; this mesh has {mesh.axis_names}")
    n = math.prod(mesh.shape[axis] for axis in axes)
    shapes = jax.eval_shape(lambda tree: tree, params)

    def pull(masters: Any) -> Any:
        def gather(part: jax.Array, like: Any) -> jax.Array:
            full = jax.lax.all_gather(part.astype(compute_dtype or part.dtype), axes, tiled=True)
            return full[: math.prod(like.shape)].reshape(like.shape)

        return jax.tree.map(gather, masters, shapes)

    def push(gradients: Any) -> Any:
        def scatter(gradient: jax.Array, like: Any) -> jax.Array:
            return jax.lax.psum_scatter(flat(gradient, n), axes, tiled=True).astype(like.dtype) / n

        return jax.tree.map(scatter, gradients, shapes)

    def step(state: ZeroState, batch: Any) -> tuple[ZeroState, jax.Array]:
        loss, gradients = jax.value_and_grad(loss_fn)(pull(state.masters), batch)
        owned = push(gradients)
        if clip_norm is not None:
            norm = jnp.sqrt(jax.lax.psum(optax.tree.norm(owned, squared=True), axes))
            owned = jax.tree.map(lambda g: g * jnp.minimum(1.0, clip_norm / norm), owned)
        updates, opt_state = optimizer.update(owned, state.opt_state, state.masters)
        masters = optax.apply_updates(state.masters, updates)
        mean_loss = jax.lax.pmean(loss.astype(jnp.float32), axes)
        return ZeroState(state.step + 1, masters, opt_state), mean_loss

    def start(params: Any) -> ZeroState:
        masters = jax.tree.map(lambda x: flat(x, n), params)
        return ZeroState(jnp.zeros((), jnp.int32), masters, optimizer.init(masters))

    # What belongs to parameters is cut like them; an optimizer's own counters are whole.
    cut, whole = PartitionSpec(axes), PartitionSpec()
    specs = jax.tree.map(lambda x: cut if x.ndim else whole, jax.eval_shape(start, shapes))
    over = partial(jax.shard_map, mesh=mesh, check_vma=False)
    return Zero(
        jax.jit(start, out_shardings=jax.tree.map(partial(NamedSharding, mesh), specs)),
        jax.jit(over(step, in_specs=(specs, cut), out_specs=(specs, whole)), donate_argnums=0),
        jax.jit(over(lambda s: pull(s.masters), in_specs=(specs,), out_specs=whole)),
    )


def main() -> None:
    # 442 patients: ten measurements → how far diabetes went on in a year (Efron et al. 2004).
    x, y = load_diabetes(return_X_y=True)
    rows = {"x": x[:440].astype("f4") * 20, "y": ((y[:440] - y.mean()) / y.std()).astype("f4")}
    params = {"w": jnp.zeros((10, 1)), "bias": jnp.zeros(1)}

    def loss_fn(params: Any, batch: Any) -> jax.Array:
        return jnp.mean((batch["x"] @ params["w"] + params["bias"] - batch["y"][:, None]) ** 2)

    mesh = make_mesh({"data": -1})
    zero = make_zero(loss_fn, optax.adam(0.05), params, mesh)
    state, batch = zero.init(params), place_batch(mesh, rows)
    for _ in range(100):
        state, loss = zero.step(state, batch)
        print(f"step {int(state.step)}: loss {float(loss):.3f}")
    part = state.masters["w"].addressable_shards[0].data.size
    print(f"each of {mesh.size} owners holds {part} of {zero.params(state)['w'].size} weights")


if __name__ == "__main__":
    main()
