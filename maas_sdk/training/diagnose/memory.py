"""Memory of a training step on a device, by kind, and the batch size that would fit.

The rule it keeps: bytes come from the arrays' own shards and from the compiler
(``memory_analysis``), never from a formula for a model's usual need. Only the batch size that
would fit is an estimate, and is reported as one: weights, optimizer and gradients
stay as they are, everything else grows with the rows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from maas_sdk.charts.quantities import data_size
from maas_sdk.errors import MachineError
from maas_sdk.training.step import TrainState

__all__ = ["MemoryNeed", "bytes_on_a_device", "device_memory", "is_out_of_memory", "out_of_memory"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryNeed:
    """Bytes on the device with the highest need."""

    weights: int
    optimizer: int
    # Batch statistics, random streams, an average of the weights.
    other: int
    batch: int
    # Gradients, activations and what else the program keeps while it runs; 0 when not compiled.
    temporary: int

    @property
    def total(self) -> int:
        """Total bytes."""
        return self.weights + self.optimizer + self.other + self.batch + self.temporary

    @classmethod
    def of(cls, state: TrainState, batch: Mapping[str, Any], compiled: Any = None) -> MemoryNeed:
        """Compute the need of placed arrays (or shapes with shardings) and their compiled step."""
        analysis = None if compiled is None else compiled.memory_analysis()
        return cls(
            weights=bytes_on_a_device(state.params),
            optimizer=bytes_on_a_device(state.opt_state),
            other=bytes_on_a_device((state.rest, state.ema)),
            batch=bytes_on_a_device(batch),
            temporary=0 if analysis is None else int(analysis.temp_size_in_bytes),
        )

    def rows_that_fit(self, rows: int, limit: int) -> int:
        """Estimate the rows that fit ``limit`` bytes, given the need of ``rows`` rows."""
        gradients = min(self.weights, self.temporary)
        fixed = self.weights + self.optimizer + self.other + gradients
        per_row = (self.batch + self.temporary - gradients) / rows
        return max(0, int((limit - fixed) / per_row)) if per_row else rows

    def __str__(self) -> str:
        kinds = ("weights", "optimizer", "other", "batch", "temporary")
        return ", ".join(f"{kind} {data_size(getattr(self, kind))}" for kind in kinds)


def bytes_on_a_device(tree: Any) -> int:
    """Return bytes of a pytree's arrays on one device, by their shardings."""

    def nbytes(leaf: Any) -> int:
        sharding = getattr(leaf, "sharding", None)
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        size = 1
        for dimension in shape:
            size *= dimension
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return int(size) * 8
        return int(size) * int(leaf.dtype.itemsize)

    return sum(map(nbytes, jax.tree.leaves(tree)))


def device_memory() -> int | None:
    """Return bytes that a device of this process may use; None where they are unknown.

    CPU devices share what the machine has.
    """
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        try:
            ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError, AttributeError):
            return None
        return ram // jax.local_device_count()
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return None if limit is None else int(limit)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True when XLA ran out of memory.

    Python's ``MemoryError`` is none of XLA's: it is that of whoever read data or was told a record.
    """
    said = str(error)
    return (
        isinstance(error, jax.errors.JaxRuntimeError)
        # The second is how the CPU's executor words it, under the code INTERNAL.
        and ("RESOURCE_EXHAUSTED" in said or "Out of memory" in said)
    )


def out_of_memory(
    need: MemoryNeed, *, batch_size: int, parts: int, limit: int | None, cause: BaseException
) -> MachineError:
    """Return the error to raise: the need by kind, and a batch size that would fit.

    Args:
        need: on the fullest device.
        batch_size: B, over all devices.
        parts: devices that the rows are cut over.
        limit: bytes of a device; None where unknown.
        cause: what XLA said.
    """
    said = str(cause).partition("\n")[0]
    about = f" of {data_size(limit)}" if limit is not None else ""
    needed = f"a step of {batch_size} rows needs {data_size(need.total)}{about} on each device"
    fits = need.rows_that_fit(batch_size, limit) // parts * parts if limit is not None else None
    if fits is None:
        remedy = "try half the batch_size, or accumulate_steps in the optimizer"
    elif 0 < fits < batch_size:
        remedy = f"about batch_size={fits} would fit; accumulate_steps keeps the effective size"
    elif fits >= batch_size:
        remedy = (
            "by these figures it should have fitted: something else holds memory of the device, or "
            "the program is one with large constants; try half the batch_size"
        )
    else:
        remedy = (
            "not even one row a device would fit: cut the weights with strategy='fsdp' over more "
            "devices, or take an optimizer with less state"
        )
    return MachineError(
        f"out of memory: {needed} ({need}); {remedy}. XLA said: {said}",
        need=need,
        limit=limit,
        fits=fits,
    )
