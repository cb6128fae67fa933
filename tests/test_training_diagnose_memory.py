from __future__ import annotations

import jax
import numpy as np
import optax
from flax import nnx

from maas_sdk.sharding.layout import place_batch
from maas_sdk.training.diagnose.memory import (
    MemoryNeed,
    bytes_on_a_device,
    device_memory,
    is_out_of_memory,
    out_of_memory,
)
from maas_sdk.training.run.config import TrainConfig
from maas_sdk.training.run.placement import mesh_of, placed_state

MB = 1_000_000
NEED = MemoryNeed(
    weights=10 * MB, optimizer=20 * MB, other=0, batch=6 * MB, temporary=74 * MB
)  # of 64 rows: 40 stay, 70 grow with the rows


def told(limit: int | None, rows: int = 64, parts: int = 8) -> str:
    error = RuntimeError("RESOURCE_EXHAUSTED: no\nmore lines")
    return str(out_of_memory(NEED, batch_size=rows, parts=parts, limit=limit, cause=error))


def test_what_would_fit_is_said() -> None:
    """Weights, optimizer and gradients stay, the rest shrinks; a multiple of the mesh's parts."""
    assert NEED.rows_that_fit(64, 75 * MB) == 32
    assert "needs 110 MB of 80.0 MB on each device" in told(80 * MB)
    assert "about batch_size=32 would fit" in told(80 * MB)
    assert "weights 10.0 MB, optimizer 20.0 MB, other 0 B, batch 6.00 MB" in told(80 * MB)
    assert told(80 * MB).endswith("XLA said: RESOURCE_EXHAUSTED: no")


def test_where_rows_do_not_help_something_else_is_advised() -> None:
    """No row fits, none had to go, or nobody knows how much there is."""
    assert "not even one row a device would fit: cut the weights" in told(41 * MB)
    assert "something else holds memory" in told(200 * MB)
    assert "try half the batch_size" in told(None)


def test_bytes_are_those_of_the_fullest_device() -> None:
    """A weight that is cut over eight devices counts for an eighth, and its moments with it."""
    config = TrainConfig(steps=1, strategy="fsdp", rules=[("kernel", ("fsdp", None))])
    mesh = mesh_of(config)
    model = nnx.Linear(64, 32, rngs=nnx.Rngs(0))
    _, params, rest = nnx.split(model, nnx.Param, ...)
    state, layout = placed_state(config, mesh, params, rest, optax.adam(1e-3))
    assert layout.warnings == ()
    batch = place_batch(mesh, {"inputs": np.zeros((64, 64), np.float32)})
    need = MemoryNeed.of(state, batch)
    kernel, bias = 64 * 32 * 4 // 8, 32 * 4
    assert need.weights == kernel + bias
    assert need.optimizer == 2 * (kernel + bias) + 4  # and a count
    assert need.batch == 64 * 64 * 4 // 8
    assert need.total == need.weights + need.optimizer + need.other + need.batch
    assert bytes_on_a_device(jax.random.key(0)) == 8


def test_errors_of_memory_are_told_from_others() -> None:
    """By XLA's own words in XLA's own error; Python's is that of a reader or a hook."""
    assert is_out_of_memory(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 8 bytes"))
    assert is_out_of_memory(jax.errors.JaxRuntimeError("INTERNAL: Out of memory allocating 8"))
    assert not is_out_of_memory(MemoryError("RESOURCE_EXHAUSTED"))
    assert not is_out_of_memory(ValueError("RESOURCE_EXHAUSTED"))
    assert not is_out_of_memory(jax.errors.JaxRuntimeError("INVALID_ARGUMENT"))
    assert (device_memory() or 0) > 100 * MB
