"""The device mesh: named axes over the devices of the machine.

The rule it keeps: every mesh of the package has axes out of ``AXES``, in that order, and every axis
is ``Auto``, so the compiler places collectives and a scale or a statistic whose sharding was not
spelled out is resharded rather than refused (jax 0.10 makes ``Explicit`` meshes by default, and
``shard_map`` asserts on them).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import jax
from jax.sharding import AxisType, Mesh

from maas_sdk.errors import ConfigError

__all__ = ["ALIASES", "AXES", "make_mesh"]

# Slowest-varying first: devices that are next to each other share the axes that talk the most.
AXES: Final = ("data", "stage", "fsdp", "expert", "tensor")

# Other names in use for the same axis (t5x and the Flax guides say "model").
ALIASES: Final[Mapping[str, str]] = {"model": "tensor"}


def make_mesh(axes: Mapping[str, int], *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the named axes.

    Args:
        axes: devices along each axis; one of them may be -1, for as many as are left over. A mesh
            smaller than the machine uses the first devices.
        devices: the devices to lay out; None takes all of ``jax.devices()``.

    Example:
        ``make_mesh({"data": -1, "tensor": 2})`` on 8 devices is a mesh of 4 × 2.

    Raises:
        ConfigError: an unknown axis, one named twice, a size that is neither positive nor -1, more
            than one -1, or sizes that do not fit the number of devices.
    """
    found = list(jax.devices() if devices is None else devices)
    sizes = _sizes(axes, len(found))
    names = tuple(name for name in AXES if name in sizes)
    shape = tuple(sizes[name] for name in names)
    return jax.make_mesh(
        shape,
        names,
        axis_types=(AxisType.Auto,) * len(names),
        devices=found[: math.prod(shape)],
    )


def _sizes(axes: Mapping[str, int], devices: int) -> dict[str, int]:
    """Canonical axis name → size, with -1 resolved and everything checked."""
    if not axes:
        raise ConfigError('mesh: expected at least one axis, got none; try {"data": -1}')
    sizes: dict[str, int] = {}
    for given, size in axes.items():
        name = ALIASES.get(given, given)
        if name not in AXES:
            raise ConfigError(
                f"mesh: unknown axis {given!r}; known are {', '.join((*AXES, *ALIASES))}",
                axis=given,
            )
        if name in sizes:
            raise ConfigError(f"mesh: axis {name!r} is named twice (as {given!r} too)", axis=name)
        if size < 1 and size != -1:
            raise ConfigError(
                f"mesh: axis {given!r} has size {size}; expected 1 or more, or -1 for the rest",
                axis=given,
            )
        sizes[name] = size
    open_axes = [name for name, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
        raise ConfigError(
            f"mesh: only one axis may be -1, got {' and '.join(open_axes)}; give the others a size"
        )
    fixed = math.prod(size for size in sizes.values() if size != -1)
    wanted = " × ".join(f"{name}={size}" for name, size in sizes.items())
    if fixed > devices:
        raise ConfigError(
            f"mesh {wanted} needs {fixed} devices, this process has {devices}; on a CPU, "
            f"set XLA_FLAGS=--xla_force_host_platform_device_count={fixed} before jax "
            "is imported",
            needed=fixed,
            found=devices,
        )
    if open_axes:
        if devices % fixed:
            raise ConfigError(
                f"mesh {wanted}: {devices} devices cannot be divided by {fixed}; "
                "choose sizes whose product divides the number of devices",
                needed=fixed,
                found=devices,
            )
        sizes[open_axes[0]] = devices // fixed
    return sizes
