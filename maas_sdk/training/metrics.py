"""Metrics from the device: packed into one array, fetched late, added up on the host.

The rule it keeps: the loop never waits for the step that it has just started. A step's metrics are
one small array, so that they cost one transfer; they are fetched ``LAG`` steps later, when the
device has long finished them, and at the same step in every run, so that nothing that is decided
by them depends on how fast the machine was.

The letter: M metrics.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from maas_sdk.tensors import Array
from maas_sdk.training.step import Mean, Metrics

__all__ = [
    "HIDDEN",
    "LAG",
    "LATEST",
    "NAMES",
    "DelayedMetrics",
    "MetricAccumulator",
    "log_name",
    "mean_values",
    "pack",
]

# Steps that the host may be ahead of the news: enough to hide a transfer, few enough that the
# batches that are kept for a diagnosis stay a small part of the memory.
LAG: Final = 4

# Reported as the last step has them, not as a mean over steps.
LATEST: Final = frozenset({"learning_rate"})

# News for the loop, of no interest as a mean: a step that is not finite is never added up.
HIDDEN: Final = frozenset({"nonfinite"})

# Arrays that are kept before they are added up, which bounds their memory.
_TOGETHER: Final = 1024

# Names in logs, as MaxText has them, where they are not the prefix and the metric's own name.
NAMES: Final = {"learning/learning_rate": "learning/current_learning_rate"}


def log_name(prefix: str, metric: str) -> str:
    """Convert ``("learning", "loss")`` to ``"learning/loss"``."""
    name = f"{prefix}/{metric}"
    return NAMES.get(name, name)


def pack(metrics: Metrics) -> jax.Array:
    """Pack metrics into float32[2, M]: totals, then counts, in the order of the sorted names."""
    chosen = [metrics[name] for name in sorted(metrics)]
    return jnp.stack(
        [
            jnp.stack([jnp.asarray(one.total, jnp.float32) for one in chosen]),
            jnp.stack([jnp.asarray(one.count, jnp.float32) for one in chosen]),
        ]
    )


class MetricAccumulator:
    """Packed metrics added up on the host, in float64."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = sorted(names)
        self.batches = 0
        self._sums = np.zeros((2, len(self.names)))
        self._last: Array = self._sums
        # Not added yet: a sum over many costs no more than one over two.
        self._pending: list[Array] = []

    def add(self, packed: Array) -> None:
        """Add a batch's float32[2, M]."""
        self._pending.append(packed)
        self._last = packed
        self.batches += 1
        if len(self._pending) >= _TOGETHER:
            self._add_pending()

    def means(self) -> dict[str, float]:
        """Return means by name; empty when nothing was added, NaN where no row counted."""
        self._add_pending()
        found = {}
        for index, name in enumerate(self.names if self.batches else ()):
            if name in HIDDEN:
                continue
            total, count = (self._last if name in LATEST else self._sums)[:, index].tolist()
            found[name] = total / count if count else float("nan")
        return found

    def get_state(self) -> dict[str, Any]:
        """Return the state, JSON-able; exact, since a float64 survives JSON."""
        self._add_pending()
        last = np.asarray(self._last, np.float64)
        return {"sums": self._sums.tolist(), "last": last.tolist(), "batches": self.batches}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state that ``get_state`` returned."""
        self._sums, self._last = np.asarray(state["sums"]), np.asarray(state["last"])
        self.batches, self._pending = int(state["batches"]), []

    def _add_pending(self) -> None:
        # In the order in which they came: a checkpoint that cuts the sum must not change it.
        self._sums = np.add.reduce([self._sums, *self._pending])
        self._pending = []


class DelayedMetrics:
    """A queue of arrays still being computed, fetched ``lag`` steps later."""

    def __init__(self, lag: int = LAG) -> None:
        self._lag = lag
        self._queue: deque[tuple[int, jax.Array, Callable[[Array], None]]] = deque()

    def put(self, step: int, value: jax.Array, then: Callable[[Array], None]) -> None:
        """Hand ``value`` to ``then``, as NumPy, once ``deliver`` is called for ``step + lag``."""
        self._queue.append((step, value, then))

    def deliver(self, step: int) -> None:
        """Deliver the values due at ``step``, in order."""
        while self._queue and self._queue[0][0] <= step - self._lag:
            _, value, then = self._queue.popleft()
            then(np.asarray(value))

    def flush(self) -> None:
        """Wait for everything, and deliver it in order."""
        while self._queue:
            _, value, then = self._queue.popleft()
            then(np.asarray(value))


def mean_values(metrics: Metrics) -> dict[str, float]:
    """Return means by name, on the host; waits for the device. For taking single steps."""
    fetched: dict[str, Mean] = jax.device_get(metrics)
    return {name: float(one.total) / float(one.count) for name, one in fetched.items()}
