"""Speed of answers: the latency of single calls, and rows per second.

The rule it keeps: a call has finished when the clock is read; the first call, which may compile or
load, is not counted, and is reported separately.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from maas_sdk.errors import ConfigError, InputError

__all__ = ["Latency", "measure_latency", "percentile"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Wall times of sequential calls."""

    calls: int
    # Of the call before those that count.
    first_s: float
    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float
    # Each call, in order.
    samples_s: tuple[float, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the figures as JSON-ready values, without the single calls."""
        return {name: value for name, value in asdict(self).items() if name != "samples_s"}


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of all do not exceed (nearest rank).

    Raises:
        InputError: no values.
        ConfigError: a share that is not in 0 < share ≤ 1.
    """
    if not values:
        raise InputError("expected at least one value, got none")
    if not 0 < share <= 1:
        raise ConfigError(f"share: expected 0 < share ≤ 1, got {share}")
    ordered = sorted(values)
    # -(-a // 1) rounds up; the small term keeps 0.07 * 100 from becoming 8.
    rank = int(-(-(share * len(ordered) - 1e-9) // 1))
    return ordered[max(rank, 1) - 1]


def measure_latency(call: Callable[[], object], *, calls: int) -> Latency:
    """Time a first ``call``, then ``calls`` more; it must return only when it is done.

    Raises:
        ConfigError: fewer than one call.
    """
    if calls < 1:
        raise ConfigError(f"calls: expected 1 or more, got {calls}")
    samples = []
    for _ in range(calls + 1):
        began = time.perf_counter()
        call()
        samples.append(time.perf_counter() - began)
    first, counted = samples[0], samples[1:]
    return Latency(
        calls=calls,
        first_s=first,
        mean_s=sum(counted) / calls,
        p50_s=percentile(counted, 0.5),
        p90_s=percentile(counted, 0.9),
        p99_s=percentile(counted, 0.99),
        max_s=max(counted),
        samples_s=tuple(counted),
    )
