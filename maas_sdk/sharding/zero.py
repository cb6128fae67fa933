"""A synchronous parameter server without a server: every device owns a part of the weights.

A parameter server (Li et al. 2014) owns master weights and optimizer state; workers fetch weights
and send gradients. Without a server, the same three moves are collectives (ZeRO: Rajbhandari et al.
2020, section 5), written out here one by one:

1. *pull*: each device gathers the weights from their owners (all-gather);
2. each computes gradients of its own rows;
3. *push*: the gradients are summed and each owner gets the sum of its part (reduce-scatter);
   the owner updates its part of the weights with its part of the optimizer state.

The rule it keeps: numerically this is the plain data-parallel step, and nothing besides those
collectives and the mean of the loss crosses a link. ``strategy="fsdp"`` leaves the same moves to
the compiler, layer by layer; this is the form to read, to measure, and to change.

Dimension letters: B rows of a batch, n owners, S numbers of a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike

from maas_sdk.errors import ConfigError
from maas_sdk.sharding.layout import BATCH_AXES, batch_sharding, row_parts
from maas_sdk.sharding.partition import spec_of

__all__ = ["Optimizer", "Zero", "ZeroState", "make_zero"]

_lax: Any = jax.lax  # its collectives have no types


class Optimizer(Protocol):
    """An ``optax.GradientTransformation`` that treats each number of a parameter independently.

    The usual ones do (sgd, momentum, adam, adamw, adagrad, rmsprop, lion). What looks at a whole
    parameter (adafactor, muon, lamb) or at all of them (clipping by the global norm) would see one
    part only: clip with ``make_zero``'s own ``clip_norm``.
    """

    init: Callable[[Any], Any]
    update: Callable[..., Any]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "masters", "opt_state"],
    meta_fields=[],
)
@dataclass(frozen=True, kw_only=True)
class ZeroState:
    """Parts of master weights and optimizer state, as their owners hold them."""

    # int32[], steps taken; on every device.
    step: jax.Array
    # The parameters' own tree; each parameter flat, float[⌈S/n⌉·n], padded with zeros, cut into n.
    masters: Any
    # The optimizer's state over those.
    opt_state: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Zero:
    """Three functions made together by ``make_zero``."""

    # Parameters → the state of step 0, in buffers of its own.
    init: Callable[[Any], ZeroState]
    # (state, batch cut by rows) → (new state, mean loss float32[]). The state is donated.
    step: Callable[[ZeroState, Any], tuple[ZeroState, jax.Array]]
    # State → the parameters, whole on every device.
    params: Callable[[ZeroState], Any]


def make_zero(
    loss_fn: Callable[[Any, Any], jax.Array],
    optimizer: Optimizer,
    params: Any,
    mesh: Mesh,
    *,
    compute_dtype: DTypeLike | None = None,
    clip_norm: float | None = None,
) -> Zero:
    """Make the step for a loss and parameters of these shapes.

    Args:
        loss_fn: (parameters, batch) → the mean loss of the batch's rows, float[]. It is called with
            the rows of one device, so nothing in it may depend on other rows.
        optimizer: of optax's kind.
        params: a pytree of arrays or of shapes, whose structure and dtypes are those of ``init``.
        mesh: rows are cut, and parameters owned, along its axes ``data`` and ``fsdp``; along other
            axes every device does the same.
        compute_dtype: floating-point weights are cast to it before they are sent, which halves both
            collectives for bfloat16; sums of gradients are then of that dtype too. None is the
            masters' own.
        clip_norm: gradients with a larger global L2 norm are scaled down to it, which takes one
            more number in an all-reduce.

    Raises:
        ConfigError: the mesh has neither of the axes.
    """
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)
    if not axes:
        raise ConfigError(
            f"the owners of ZeRO lie along the mesh axes {' and '.join(BATCH_AXES)}; this mesh has "
            f"{', '.join(mesh.axis_names)}"
        )
    n = row_parts(mesh)
    shapes = jax.eval_shape(lambda tree: tree, params)
    whole, cut = spec_of(()), batch_sharding(mesh).spec

    def pull(masters: Any) -> Any:
        """Gather parts of one device, float[⌈S/n⌉] each, into whole parameters."""

        def gather(part: jax.Array, like: Any) -> Any:
            full = _lax.all_gather(_cast(part, compute_dtype), axes, tiled=True)
            return full[: math.prod(like.shape)].reshape(like.shape)

        return jax.tree.map(gather, masters, shapes)

    def push(gradients: Any) -> Any:
        """Average gradients over all devices; return the part that this device owns."""

        def scatter(gradient: jax.Array, like: Any) -> Any:
            total = _lax.psum_scatter(_flat(gradient, n), axes, tiled=True)
            return total.astype(like.dtype) / n

        return jax.tree.map(scatter, gradients, shapes)

    def step(state: ZeroState, batch: Any) -> tuple[ZeroState, jax.Array]:
        loss, gradients = jax.value_and_grad(loss_fn)(pull(state.masters), batch)
        owned = push(gradients)
        if clip_norm is not None:
            squares = sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(owned))
            norm = jnp.sqrt(_lax.psum(squares, axes))
            owned = jax.tree.map(lambda g: g * jnp.minimum(1.0, clip_norm / norm), owned)
        updates, opt_state = optimizer.update(owned, state.opt_state, state.masters)
        masters = jax.tree.map(lambda m, u: (m + u).astype(m.dtype), state.masters, updates)
        mean = _lax.pmean(loss.astype(jnp.float32), axes)
        return ZeroState(step=state.step + 1, masters=masters, opt_state=opt_state), mean

    def start(params: Any) -> ZeroState:
        masters = jax.tree.map(lambda x: _flat(x, n), params)
        step = jnp.zeros((), jnp.int32)
        return ZeroState(step=step, masters=masters, opt_state=optimizer.init(masters))

    # Numbers that belong to parameters are cut like them, an optimizer's own counters are not.
    specs = jax.tree.map(lambda x: cut if x.ndim else whole, jax.eval_shape(start, shapes))
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    over = partial(jax.shard_map, mesh=mesh, check_vma=False)
    return Zero(
        init=jax.jit(start, out_shardings=shardings),
        step=jax.jit(over(step, in_specs=(specs, cut), out_specs=(specs, whole)), donate_argnums=0),
        params=jax.jit(over(lambda s: pull(s.masters), in_specs=(specs,), out_specs=whole)),
    )


def _flat(x: jax.Array, n: int) -> jax.Array:
    """Flatten any shape to [⌈S/n⌉·n], padded with zeros."""
    return jnp.pad(x.reshape(-1), (0, -x.size % n))


def _cast(x: jax.Array, dtype: DTypeLike | None) -> jax.Array:
    return x if dtype is None or not jnp.issubdtype(x.dtype, jnp.floating) else x.astype(dtype)
