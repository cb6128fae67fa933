from __future__ import annotations

import jax
import pytest
from jax.sharding import AxisType

from maas_sdk.errors import ConfigError
from maas_sdk.sharding.mesh import AXES, make_mesh


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
