"""Arithmetic cost of a model per row, and a device's peak.

The rule it keeps: every figure says where it is from. Flops are the compiler's own count of the
compiled program, a multiply and an add being two; the body of a loop counts once, so a model that
scans over its layers or its time steps must be counted otherwise (``maas plan`` does). A device's
ceiling is either what its maker publishes or what a large matrix product reaches here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import jax
import jax.numpy as jnp

from maas_sdk.errors import ConfigError

__all__ = ["PEAK_FLOPS", "compiled_flops", "matmul_ceiling", "peak_flops"]

# Published dense bf16 peaks in flop/s of one device, by the start of jax's ``device_kind``.
# TPUs: cloud.google.com/tpu/docs, system architecture. GPUs: the maker's data sheets, SXM form,
# without sparsity. The first match counts, so longer names come first.
PEAK_FLOPS: Final[tuple[tuple[str, float], ...]] = (
    ("TPU v6 lite", 918e12),
    ("TPU v6e", 918e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5p", 459e12),
    ("TPU v5", 459e12),
    ("TPU v4", 275e12),
    ("NVIDIA H200", 989e12),
    ("NVIDIA H100", 989e12),
    ("NVIDIA A100", 312e12),
)


def compiled_flops(compiled: jax.stages.Compiled) -> float | None:
    """Return the compiler's flops of one run over all devices; None if it has none."""
    cost: Any = compiled.cost_analysis()
    # Older versions of jax gave a list with one entry per program.
    counted = cost[0] if isinstance(cost, list) else cost
    flops = float((counted or {}).get("flops", 0.0))
    return flops if flops > 0 else None


def peak_flops(device: jax.Device) -> float | None:
    """Return the published bf16 peak of a device in flop/s; None for an unknown one."""
    for kind, flops in PEAK_FLOPS:
        if device.device_kind.startswith(kind):
            return flops
    return None


def matmul_ceiling(
    dtype: Any = jnp.float32,
    *,
    size: int = 1024,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Measure flop/s of a square matrix product on the default device, the best of some runs.

    Args:
        dtype: of both factors.
        size: rows and columns; large enough that memory does not limit it.
        repeats: runs to take the best of.
        clock: seconds.

    Raises:
        ConfigError: a size or number of runs below 1.
    """
    if size < 1 or repeats < 1:
        raise ConfigError(f"size and repeats: expected 1 or more, got {size} and {repeats}")
    left = jnp.full((size, size), 0.5, dtype)
    product = jax.jit(lambda a, b: a @ b)
    product(left, left).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        began = clock()
        product(left, left).block_until_ready()
        best = min(best, clock() - began)
    return 2 * size**3 / max(best, 1e-9)
