"""Stacks of equal blocks: a list, or one block with stacked parameters.

The rule it keeps: one seed gives the same layers either way, and both compute the same. Stacked
layers are traced and compiled once however many there are, and can be cut into pipeline stages
along their first dimension.

Dimension letter: L layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import jax
from flax import nnx

from maas_sdk.errors import ConfigError

__all__ = ["REMAT", "check_remat", "make_layers", "run_layers"]

# What a rematerialized block keeps for its backward pass, by name; everything else is computed
# again. False keeps all, True nothing but the block's input.
REMAT: Final[dict[str, Any]] = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "nothing": jax.checkpoint_policies.nothing_saveable,
}


def check_remat(remat: bool | str) -> None:
    """Refuse an unknown policy.

    Raises:
        ConfigError: neither a bool nor a name out of ``REMAT``.
    """
    if not isinstance(remat, bool) and remat not in REMAT:
        raise ConfigError(
            f"remat: expected False, True or one of {', '.join(REMAT)}, got {remat!r}"
        )


def make_layers(
    make: Callable[[nnx.Rngs], nnx.Module], *, count: int, scan: bool, rngs: nnx.Rngs
) -> Any:
    """Make L blocks, each from its own seed.

    Args:
        make: makes one block.
        count: L.
        scan: stack them.
        rngs: source of the L seeds.

    Returns:
        ``nnx.List`` of L modules or, stacked, one module whose arrays are ``[L, …]``.
    """
    keys = jax.random.split(rngs.params(), count)
    if scan:
        return nnx.vmap(lambda key: make(nnx.Rngs(key)))(keys)
    return nnx.List([make(nnx.Rngs(key)) for key in keys])


def run_layers(
    layers: Any, x: jax.Array, call: Callable[[Any, jax.Array], jax.Array], *, remat: bool | str
) -> jax.Array:
    """Send ``x`` through all layers in order.

    Args:
        layers: what ``make_layers`` made. Variables that a block changes (counters of random
            streams) are written back.
        x: the first block's input; every block's output has its shape and dtype.
        call: (block, x) → the block's output.
        remat: compute inside of blocks again in the backward pass; see ``REMAT``.
    """
    scanned = not isinstance(layers, nnx.List)
    if not scanned and not remat:
        for layer in layers:
            x = call(layer, x)
        return x
    for part in [layers] if scanned else layers:
        graphdef, state = nnx.split(part)
        body = _body(graphdef, call)
        if remat:
            # A loop's body cannot be merged with its copy in the backward loop, so the barriers
            # that would prevent that are left out (jax.checkpoint's documentation, prevent_cse).
            policy = None if isinstance(remat, bool) else REMAT[remat]
            body = jax.checkpoint(body, policy=policy, prevent_cse=not scanned)
        x, changed = jax.lax.scan(body, x, state) if scanned else body(x, state)
        nnx.update(part, changed)
    return x


def _body(graphdef: Any, call: Callable[[Any, jax.Array], jax.Array]) -> Any:
    """Return a block as a pure function: (x, its state) → (output, changed state)."""

    def body(x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        block: Any = nnx.merge(graphdef, state, copy=True)
        return call(block, x), nnx.state(block, nnx.Not(nnx.Param))

    return body
