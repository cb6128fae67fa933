"""Sharding strategies by name: a mesh, and rules for the weights on it.

    name            rows of a batch     weights and optimizer state
    data, pmap      cut                 whole on every device
    fsdp            cut                 cut over the same devices, gathered layer by layer
    tensor          whole               cut, and every device works on its part of each layer
    fsdp+tensor     cut over fsdp       cut over both

The rule it keeps: a strategy is data, independent of a model. ``"pmap"`` is another spelling of
``"data"``: since jax 0.10 ``jax.pmap`` is itself ``jit(shard_map)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import jax
from jax.sharding import Mesh

from maas_sdk.errors import ConfigError
from maas_sdk.sharding.mesh import ALIASES, make_mesh

__all__ = ["SPELLINGS", "STRATEGIES", "Strategy", "mesh_for", "strategy_by_name"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Strategy:
    """Partitioning of a model's weights."""

    name: str
    # Mesh axes over which weights are cut; a mesh for this strategy has them.
    weight_axes: tuple[str, ...]
    # Count of devices → the axes of a mesh over all of them, when the user names none.
    axes: Callable[[int], Mapping[str, int]]


def _both(devices: int) -> Mapping[str, int]:
    # Two divides the heads of nearly every model; more is for the user to say.
    tensor = 2 if devices % 2 == 0 else 1
    return {"fsdp": devices // tensor, "tensor": tensor}


_DATA: Final = Strategy(name="data", weight_axes=(), axes=lambda n: {"data": n})

STRATEGIES: Final[Mapping[str, Strategy]] = MappingProxyType(
    {
        "data": _DATA,
        "fsdp": Strategy(name="fsdp", weight_axes=("fsdp",), axes=lambda n: {"fsdp": n}),
        "fsdp+tensor": Strategy(name="fsdp+tensor", weight_axes=("fsdp", "tensor"), axes=_both),
        "pmap": _DATA,
        "tensor": Strategy(name="tensor", weight_axes=("tensor",), axes=lambda n: {"tensor": n}),
    }
)

# Other spellings that are understood.
SPELLINGS: Final[Mapping[str, str]] = MappingProxyType(
    {"data_parallel": "data", "tensor+fsdp": "fsdp+tensor"}
)


def strategy_by_name(name: str) -> Strategy:
    """Return the strategy of a name out of ``STRATEGIES`` or ``SPELLINGS``.

    Raises:
        ConfigError: no such strategy.
    """
    found = STRATEGIES.get(SPELLINGS.get(name, name))
    if found is None:
        raise ConfigError(
            f"unknown strategy {name!r}; known are {', '.join(STRATEGIES)}", strategy=name
        )
    return found


def mesh_for(
    strategy: str,
    *,
    axes: Mapping[str, int] | None = None,
    dcn: Mapping[str, int] | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Return the mesh of a strategy.

    Args:
        strategy: a name out of ``STRATEGIES``.
        axes: sizes of the axes, one of them may be -1; None is one mesh over all devices (for
            "fsdp+tensor" tensor is then 2).
        dcn: slices along an axis, where several are connected; see ``make_mesh``.
        devices: the devices to lay out; None takes all of ``jax.devices()``.

    Raises:
        ConfigError: no such strategy, axes that are no mesh (see ``make_mesh``), or a mesh without
            an axis over which the strategy cuts weights.
    """
    chosen = strategy_by_name(strategy)
    found = list(jax.devices() if devices is None else devices)
    if axes is None:
        return make_mesh(chosen.axes(len(found)), dcn=dcn, devices=found)
    named = {ALIASES.get(name, name) for name in axes}
    missing = [axis for axis in chosen.weight_axes if axis not in named]
    if missing:
        raise ConfigError(
            f"strategy {strategy!r} cuts weights over the mesh axis {missing[0]!r}; the mesh has "
            f"{', '.join(axes)}; add {missing[0]!r} or choose another strategy",
            strategy=strategy,
            axis=missing[0],
        )
    return make_mesh(axes, dcn=dcn, devices=found)
