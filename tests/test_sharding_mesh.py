from __future__ import annotations

import jax
import pytest
from jax.sharding import AxisType

from maas_sdk.errors import ConfigError
from maas_sdk.sharding.mesh import AXES, MeshAxis, describe_mesh, make_mesh


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ({"data": -1}, {"data": 8}),
        ({"data": 8}, {"data": 8}),
        ({"data": 2}, {"data": 2}),
        ({"data": -1, "tensor": 2}, {"data": 4, "tensor": 2}),
        ({"tensor": 2, "data": 2, "fsdp": -1}, {"data": 2, "fsdp": 2, "tensor": 2}),
        ({"data": -1, "model": 4}, {"data": 2, "tensor": 4}),
        ({"data": 8, "expert": -1}, {"data": 8, "expert": 1}),
    ],
)
def test_axes_become_a_mesh(axes: dict[str, int], shape: dict[str, int]) -> None:
    """Sizes are as asked, -1 takes what is left, ``model`` is another word for ``tensor``."""
    assert dict(make_mesh(axes).shape) == shape


def test_axes_are_auto_and_in_the_order_of_the_house() -> None:
    """Every axis is Auto (jax 0.10 would make it Explicit), in one order however it was said."""
    mesh = make_mesh(dict.fromkeys(reversed(AXES), 1))
    assert mesh.axis_names == AXES
    assert set(mesh.axis_types) == {AxisType.Auto}


def test_a_mesh_can_be_of_chosen_devices() -> None:
    """The mesh is laid over the devices that were given."""
    chosen = jax.devices()[4:]
    assert list(make_mesh({"data": -1}, devices=chosen).devices.flat) == chosen


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "at least one axis"),
        ({"rows": 2}, "unknown axis 'rows'; known are data, stage, fsdp, expert, tensor, model"),
        ({"tensor": 2, "model": 2}, "axis 'tensor' is named twice"),
        ({"data": 0}, "axis 'data' has size 0; expected 1 or more, or -1"),
        ({"data": -2}, "has size -2"),
        ({"data": -1, "fsdp": -1}, "only one axis may be -1, got data and fsdp"),
        ({"data": 16}, "needs 16 devices, this process has 8.*device_count=16"),
        ({"data": -1, "tensor": 3}, "8 devices cannot be divided by 3"),
    ],
)
def test_what_cannot_be_a_mesh_is_refused(axes: dict[str, int], message: str) -> None:
    """The message says which axis, what was found and what to do."""
    with pytest.raises(ConfigError, match=message):
        make_mesh(axes)


def halves(device: jax.Device) -> int:
    """Two slices of four devices each."""
    return int(device.id) // 4


def test_slices_follow_one_another_along_the_axis_that_may_cross() -> None:
    """Devices of one slice are a block; only along "data" does a line meet both slices."""
    mesh = make_mesh({"data": -1, "tensor": 2}, dcn={"data": 2}, slice_of=halves)
    assert dict(mesh.shape) == {"data": 4, "tensor": 2}
    assert set(mesh.axis_types) == {AxisType.Auto}
    slices = [[halves(device) for device in line] for line in mesh.devices]
    assert slices == [[0, 0], [0, 0], [1, 1], [1, 1]]


def test_an_inner_axis_can_be_the_one_that_crosses() -> None:
    """The blocks are laid along whichever axis was named, ``model`` for ``tensor`` too."""
    mesh = make_mesh({"data": 2, "model": 4}, dcn={"model": 2}, slice_of=halves)
    assert [[halves(device) for device in line] for line in mesh.devices] == [[0, 0, 1, 1]] * 2


def test_a_mesh_says_which_network_an_axis_runs_over() -> None:
    """Size and network per axis, in a sentence and as values."""
    mesh = make_mesh({"data": -1, "tensor": 2}, dcn={"data": 2}, slice_of=halves)
    data, tensor = describe_mesh(mesh, slice_of=halves)
    assert data == MeshAxis(name="data", ici=2, dcn=2)
    assert (data.size, data.network, tensor.network) == (4, "dcn", "ici")
    assert str(data) == "data 4 over dcn (2 slices × 2)"
    assert str(tensor) == "tensor 2 over ici"
    # As far as jax knows, this machine's devices are one process and so one slice.
    assert [axis.network for axis in describe_mesh(mesh)] == ["ici", "ici"]


@pytest.mark.parametrize(
    ("dcn", "message"),
    [
        ({"fsdp": 2}, "dcn gives axis 'fsdp' 2 slices, but the mesh has no such axis"),
        ({"data": 3}, "dcn gives axis 'data' 3 slices, but the mesh has 4 devices along it"),
        ({"data": 4}, "dcn asks for 4 slices of 2 devices, found 2 of 4"),
        ({"data": 1}, "dcn asks for 1 slices of 8 devices, found 2 of 4"),
    ],
)
def test_slices_that_are_not_there_are_refused(dcn: dict[str, int], message: str) -> None:
    """The message compares what was asked for with what is connected."""
    with pytest.raises(ConfigError, match=message):
        make_mesh({"data": 4, "tensor": 2}, dcn=dcn, slice_of=halves)
