from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from maas_sdk.training.checkpoints.device_copy import Snapshot, snapshot_pays

MESH = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
CUT, WHOLE = NamedSharding(MESH, P("fsdp")), NamedSharding(MESH, P())


def arrays() -> dict[str, jax.Array]:
    return {
        "cut": jax.device_put(np.arange(800, dtype=np.float32).reshape(8, 100), CUT),
        "whole": jax.device_put(np.ones(5, np.int8), WHOLE),
        "key": jax.device_put(jax.random.split(jax.random.key(3), 8), CUT),
    }


def places(array: jax.Array) -> set[int]:
    return {shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards}


def test_a_copy_lies_as_the_state_does_and_shares_nothing() -> None:
    """Values and shardings are the state's, random keys as numbers; no memory is."""
    state = arrays()
    found = Snapshot().take(state)
    for name in ("cut", "whole"):
        np.testing.assert_array_equal(found[name], state[name])
        assert found[name].sharding.is_equivalent_to(state[name].sharding, found[name].ndim)
        assert not places(found[name]) & places(state[name])
    np.testing.assert_array_equal(found["key"], jax.random.key_data(state["key"]))
    assert found["key"].addressable_shards[0].data.shape == (1, 2)


def test_the_memory_is_used_again_unless_somebody_reads_it() -> None:
    """The next copy lies where the last one did; one that is still read stays what it was."""
    state, snapshot = arrays(), Snapshot()
    first = snapshot.take(state)
    second = snapshot.take({**state, "cut": state["cut"] + 1})
    assert first["cut"].is_deleted()
    before = places(second["cut"])
    third = snapshot.take({**state, "cut": state["cut"] + 2})
    assert places(third["cut"]) == before
    reader = np.asarray(third["cut"].addressable_shards[0].data)
    kept = reader.copy()
    fourth = snapshot.take({**state, "cut": state["cut"] + 3})
    np.testing.assert_array_equal(reader, kept)
    np.testing.assert_array_equal(fourth["cut"], state["cut"] + 3)


def test_another_state_is_copied_anew() -> None:
    """Other names, shapes, dtypes or shardings: nothing of the last copy is used."""
    snapshot = Snapshot()
    snapshot.take(arrays())
    other = {"cut": jax.device_put(jnp.zeros((16, 2), jnp.bfloat16), WHOLE)}
    found = snapshot.take(other)
    assert list(found) == ["cut"]
    assert found["cut"].dtype == jnp.bfloat16
    snapshot.drop()
    np.testing.assert_array_equal(snapshot.take(other)["cut"], other["cut"])


def test_when_it_pays() -> None:
    """From 64 MiB on, over all devices of this process together, copies included."""
    assert not snapshot_pays(arrays())
    half = np.zeros((8, 2**20), np.float32)
    assert not snapshot_pays({"half": jax.device_put(half, CUT)})
    assert snapshot_pays({"one": jax.device_put(half, CUT), "two": jax.device_put(half, CUT)})
    assert snapshot_pays({"everywhere": jax.device_put(half, WHOLE)})
