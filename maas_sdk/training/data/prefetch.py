"""Prefetching: batches placed on the devices ahead of use, by a background thread.

The rule it keeps: prefetching changes only the time of an iteration. The position is that of the
last batch handed out, not of a prefetched one; an error is raised where its batch would have come;
and when the iterator is closed or garbage-collected, no thread is left.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Generic, Protocol, Self, TypeVar

import grain.experimental

from maas_sdk.errors import ConfigError
from maas_sdk.training.data.examples import Batch

__all__ = ["Placed", "Positioned", "Prefetched", "prefetch"]

# What ``place`` makes of a batch.
Placed = TypeVar("Placed")


class Positioned(Protocol):
    """Batches with a position: grain's protocol for iterators, ``close`` optional."""

    def __next__(self) -> Batch:
        """Return the next batch."""
        ...

    def get_state(self) -> dict[str, Any]:
        """Return the position, JSON-able."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Set the position."""
        ...


class _Placing(Generic[Placed]):
    """Batches, each placed as it is read, run by the thread."""

    def __init__(self, batches: Positioned, place: Callable[[Batch], Placed]) -> None:
        self._batches = batches
        self._place = place

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Placed:
        return self._place(next(self._batches))

    def get_state(self) -> dict[str, Any]:
        return self._batches.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._batches.set_state(state)


class Prefetched(Generic[Placed]):
    """An iterator over placed batches; made by ``prefetch``."""

    def __init__(self, batches: Positioned, place: Callable[[Batch], Placed], *, size: int) -> None:
        if size < 1:
            raise ConfigError(f"size: expected 1 or more batches in waiting, got {size}")
        self._thread: Any = grain.experimental.ThreadPrefetchDatasetIterator(
            _Placing(batches, place), prefetch_buffer_size=size
        )
        self._finalizer = weakref.finalize(self, _close, self._thread, batches)
        self._failed: BaseException | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Placed:
        if not self._finalizer.alive:
            raise ConfigError("the prefetched batches are closed: make new ones to go on")
        if self._failed is not None:
            raise self._failed
        try:
            placed: Placed = next(self._thread)
        except Exception as error:
            # Asked again, grain would start a thread anew and skip the batch that failed.
            self._failed = error
            raise
        return placed

    def get_state(self) -> dict[str, Any]:
        """Return the position after the last batch handed out, JSON-able."""
        state: dict[str, Any] = self._thread.get_state()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Set the position; prefetched batches are dropped."""
        self._thread.set_state(state)
        self._failed = None

    def close(self) -> None:
        """End the thread, and close the batches."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prefetch(
    batches: Positioned, place: Callable[[Batch], Placed], *, size: int = 2
) -> Prefetched[Placed]:
    """Place the next batches in the background while the last one is in use.

    Args:
        batches: whose next ones are placed; from here on they belong to the thread.
        place: a host's batch → arrays on devices, for instance
            ``lambda batch: place_batch(mesh, batch)``; called in the thread.
        size: placed batches that wait at most; each takes its memory on the devices.

    Raises:
        ConfigError: ``size`` is below 1.
    """
    return Prefetched(batches, place, size=size)


def _close(thread: Any, batches: Positioned) -> None:
    thread.close()
    if hasattr(batches, "close"):
        batches.close()
