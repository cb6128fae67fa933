"""A second copy of a state, in memory that is reused from one checkpoint to the next.

A training step donates its state, so a state to be saved must be read before the next step, or be
copied. Without a copy there are two bad ways: on an accelerator the loop waits until the state
has crossed to the host; on a CPU the arrays are shared with the writer, XLA then cannot reuse their
memory, and the next step pays for fresh pages: 0.6 s and more per GB on two cores, where a copy
into the memory of the last one took 0.06 s.

The rule it keeps: a snapshot shares no memory with the state that it was taken from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import jax
import jax.numpy as jnp

from maas_sdk.training.checkpoints.named_state import raw

__all__ = ["Snapshot", "snapshot_pays"]

# Below this a fresh copy is as cheap, and compiling one is not.
_LEAST_BYTES: Final = 64 * 2**20
# Of the memory that is free at the state's worst moment, what a snapshot may take.
_SHARE: Final = 0.8


class Snapshot:
    """Copies of named arrays; the last one lives until the next is taken or it is dropped."""

    def __init__(self) -> None:
        self._kept: dict[str, jax.Array] = {}
        self._copies: dict[Any, Any] = {}

    def take(self, arrays: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Copy ``arrays`` with the same shardings; typed random keys become numbers.

        What the last call gave is written over, or let go where it is still being read.
        """
        key = tuple((name, a.shape, str(a.dtype), a.sharding) for name, a in arrays.items())
        kept, self._kept = self._kept, {}
        if key not in self._copies:
            kept, self._copies = {}, {key: _copier(arrays)}
        self._kept = self._copies[key](kept, dict(arrays))
        return dict(self._kept)

    def drop(self) -> None:
        """Release the memory."""
        self._kept = {}


def snapshot_pays(arrays: Mapping[str, jax.Array]) -> bool:
    """Return True when a copy of these arrays is worth its memory, and the devices have room.

    False with several processes: the copy is a program that all must run, and each would decide by
    what its own devices have free.
    """
    if jax.process_count() > 1:
        return False
    nbytes: dict[Any, int] = {}
    for array in arrays.values():
        for shard in array.addressable_shards:
            size = int(raw(shard.data).nbytes)
            nbytes[shard.device] = nbytes.get(shard.device, 0) + size
    if sum(nbytes.values()) < _LEAST_BYTES:
        return False
    for device, size in nbytes.items():
        stats = device.memory_stats() or {}  # none on a CPU
        limit, peak = stats.get("bytes_limit"), stats.get("peak_bytes_in_use", 0)
        if limit is not None and size > _SHARE * (limit - peak):
            return False
    return True


def _copier(arrays: Mapping[str, jax.Array]) -> Any:
    def copy(kept: dict[str, jax.Array], state: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {name: jnp.copy(raw(array)) for name, array in state.items()}

    shardings = {name: array.sharding for name, array in arrays.items()}
    return jax.jit(copy, donate_argnums=0, keep_unused=True, out_shardings=shardings)
