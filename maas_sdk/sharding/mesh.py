"""The device mesh: named axes over the devices of the machine.

The rule it keeps: every mesh of the package has axes out of ``AXES``, in that order, and every axis
is ``Auto``, so the compiler places collectives and a scale or a statistic whose sharding was not
spelled out is resharded rather than refused (jax 0.10 makes ``Explicit`` meshes by default, and
``shard_map`` asserts on them).

Two networks connect devices: within a slice (of TPUs; elsewhere, within a machine) the fast one,
"ici", between slices the slower one of the data centre, "dcn". A mesh over several slices says
which axes may cross between them; of the devices along such an axis, those of one slice are next to
each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from maas_sdk.errors import ConfigError

__all__ = ["ALIASES", "AXES", "MeshAxis", "describe_mesh", "make_mesh", "slice_index"]

# Slowest-varying first: devices that are next to each other share the axes that talk the most.
AXES: Final = ("data", "stage", "fsdp", "expert", "tensor")

# Other names in use for the same axis (t5x and the Flax guides say "model").
ALIASES: Final[Mapping[str, str]] = {"model": "tensor"}


@dataclass(frozen=True, kw_only=True, slots=True)
class MeshAxis:
    """One axis of a mesh: ``ici`` × ``dcn`` devices."""

    name: str
    # Devices along the axis within one slice.
    ici: int
    # Slices along the axis; 1: it stays on the fast network.
    dcn: int

    @property
    def size(self) -> int:
        """Devices along the axis."""
        return self.ici * self.dcn

    @property
    def network(self) -> str:
        """The slowest network that communication along this axis crosses: "ici" or "dcn"."""
        return "dcn" if self.dcn > 1 else "ici"

    def __str__(self) -> str:
        crossing = f" ({self.dcn} slices × {self.ici})" if self.dcn > 1 else ""
        return f"{self.name} {self.size} over {self.network}{crossing}"


def slice_index(device: jax.Device) -> int:
    """Return a device's slice, as jax gives it; its process where jax does not.

    On CPUs and GPUs under ``jax.distributed``, all processes of one machine are one slice.
    """
    found = getattr(device, "slice_index", None)
    return int(device.process_index if found is None else found)


def make_mesh(
    axes: Mapping[str, int],
    *,
    dcn: Mapping[str, int] | None = None,
    devices: Sequence[jax.Device] | None = None,
    slice_of: Callable[[jax.Device], int] = slice_index,
) -> Mesh:
    """Make a mesh with the named axes.

    Args:
        axes: devices along each axis; one of them may be -1, for as many as are left over. A mesh
            smaller than the machine uses the first devices.
        dcn: of these, how many slices lie along an axis: ``{"data": 2}`` puts two slices behind
            one another along "data". None leaves the order of the devices to jax.
        devices: the devices to lay out; None takes all of ``jax.devices()``.
        slice_of: which slice a device is in.

    Example:
        ``make_mesh({"data": -1, "tensor": 2})`` on 8 devices is a mesh of 4 × 2.

    Raises:
        ConfigError: an unknown axis, one named twice, a size that is neither positive nor -1, more
            than one -1, or sizes that do not fit the number of devices or of slices.
    """
    found = list(jax.devices() if devices is None else devices)
    sizes = _sizes(axes, len(found))
    names = tuple(name for name in AXES if name in sizes)
    shape = tuple(sizes[name] for name in names)
    kinds = (AxisType.Auto,) * len(names)
    if dcn is None:
        chosen = found[: math.prod(shape)]
        return jax.make_mesh(shape, names, axis_types=kinds, devices=chosen)
    across = _across(dcn, sizes)
    grid = _hybrid_grid(shape, tuple(across.get(name, 1) for name in names), found, slice_of)
    return Mesh(grid, names, axis_types=kinds)


def describe_mesh(
    mesh: Mesh, *, slice_of: Callable[[jax.Device], int] = slice_index
) -> tuple[MeshAxis, ...]:
    """Describe each axis of a mesh: its size and its network."""
    described = []
    for position, name in enumerate(mesh.axis_names):
        lines = np.moveaxis(mesh.devices, position, -1).reshape(-1, mesh.devices.shape[position])
        slices = max(len({slice_of(device) for device in line}) for line in lines)
        described.append(MeshAxis(name=name, ici=lines.shape[1] // slices, dcn=slices))
    return tuple(described)


def _across(dcn: Mapping[str, int], sizes: Mapping[str, int]) -> dict[str, int]:
    """Return canonical axis name → slices along it, checked against the axis's size."""
    across: dict[str, int] = {}
    for given, count in dcn.items():
        name = ALIASES.get(given, given)
        size = sizes.get(name)
        if size is None or count < 1 or size % count:
            raise ConfigError(
                f"mesh: dcn gives axis {given!r} {count} slices, but the mesh has "
                + ("no such axis" if size is None else f"{size} devices along it")
                + "; name one of its axes, with a divisor of its size",
                axis=given,
            )
        across[name] = count
    return across


def _hybrid_grid(
    shape: tuple[int, ...],
    across: tuple[int, ...],
    devices: Sequence[jax.Device],
    slice_of: Callable[[jax.Device], int],
) -> np.ndarray[Any, Any]:
    """Arrange devices with one slice as a block; slices follow one another along ``across``.

    What ``mesh_utils.create_hybrid_device_mesh`` does, for whatever tells slices apart.
    """
    slices: dict[int, list[jax.Device]] = {}
    for device in devices:
        slices.setdefault(slice_of(device), []).append(device)
    inner = tuple(size // count for size, count in zip(shape, across, strict=True))
    wanted, each = math.prod(across), math.prod(inner)
    sizes = sorted({len(members) for members in slices.values()})
    if len(slices) != wanted or sizes != [each]:
        raise ConfigError(
            f"mesh: dcn asks for {wanted} slices of {each} devices, found {len(slices)} of "
            f"{' and '.join(map(str, sizes))}; make the product of dcn the number of slices, and "
            "the product of the axes the number of devices",
            needed=wanted,
            found=len(slices),
        )
    blocks = np.empty(across, dtype=object)
    for position, key in zip(np.ndindex(across), sorted(slices), strict=True):
        blocks[position] = mesh_utils.create_device_mesh(
            inner, slices[key], allow_split_physical_axes=True
        )
    grid: np.ndarray[Any, Any] = np.block(blocks.tolist())
    return grid


def _sizes(axes: Mapping[str, int], devices: int) -> dict[str, int]:
    """Return canonical axis name → size, with -1 resolved and everything checked."""
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
