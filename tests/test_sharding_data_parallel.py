from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maas_sdk.errors import ConfigError
from maas_sdk.sharding.data_parallel import (
    STRATEGIES,
    check_batch_size,
    mesh_for,
    place_batch,
    replicate,
)
from maas_sdk.sharding.mesh import make_mesh


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_every_spelling_is_a_mesh_over_all_devices(strategy: str) -> None:
    """``pmap`` is a spelling of data parallelism: the same mesh."""
    assert dict(mesh_for(strategy).shape) == {"data": 8}


def test_an_unknown_strategy_is_refused() -> None:
    """The message lists what there is."""
    with pytest.raises(ConfigError, match="'magic'; known are data_parallel, pmap"):
        mesh_for("magic")


def test_a_batch_is_cut_by_rows() -> None:
    """Each device holds its share of the rows, in order, and the whole is what it was."""
    rows = np.arange(16 * 3).reshape(16, 3)
    placed = place_batch(mesh_for("data_parallel"), rows)
    assert [shard.data.shape for shard in placed.addressable_shards] == [(2, 3)] * 8
    np.testing.assert_array_equal(placed, rows)


def test_a_batch_is_whole_over_the_other_axes() -> None:
    """Only ``data`` cuts rows; devices along ``tensor`` see the same ones."""
    placed = place_batch(make_mesh({"data": 2, "tensor": 4}), np.arange(8))
    assert {shard.data.shape for shard in placed.addressable_shards} == {(4,)}


def test_replicas_share_nothing_with_the_original() -> None:
    """Donating the replicas leaves the caller's arrays alive, wherever those lay."""
    mesh = mesh_for("data_parallel")
    on_one = jnp.arange(4.0)
    on_all = replicate(mesh, on_one)
    for original in (on_one, on_all):
        copy = replicate(mesh, original)
        jax.jit(lambda x: x + 1, donate_argnums=0)(copy)
        assert copy.is_deleted()
        np.testing.assert_array_equal(original, np.arange(4.0))


@pytest.mark.parametrize(("size", "nearest"), [(0, 8), (20, 16), (63, 64)])
def test_a_batch_that_cannot_be_cut_evenly_is_refused(size: int, nearest: int) -> None:
    """The message names the nearest size that can."""
    with pytest.raises(ConfigError, match=f"over 8 devices; the nearest that can is {nearest}"):
        check_batch_size(mesh_for("data_parallel"), size)


def test_a_mesh_without_a_data_axis_is_refused() -> None:
    """Data parallelism says which axis it misses."""
    with pytest.raises(ConfigError, match="needs a mesh axis 'data'; this mesh has tensor"):
        check_batch_size(make_mesh({"tensor": 8}), 8)
