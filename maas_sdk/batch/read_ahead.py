"""Read-ahead: one stage of the work runs ahead of the next, in its own thread.

The rule it keeps: a stage is a plain iterator, and runs ahead by a bounded number of items, so that
reading, computing and writing take their time together and memory is that of a few items. What a
stage raises is raised where its items are taken; whoever stops taking them stops the stage.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

__all__ = ["ahead", "short_turns"]

T = TypeVar("T")

_END: Final = object()
# How often a stage that waits for room looks whether anybody still takes its items.
_LOOK_S: Final = 0.05
_TURN_S: Final = 0.0005


@contextmanager
def short_turns() -> Iterator[None]:
    """Let this process's threads hand on Python's lock after half a millisecond, not five.

    The computing thread gives it up while a batch runs, and then waits for its turn behind the
    thread that reads. A batch often takes less than such a turn.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, _TURN_S))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextmanager
def ahead(items: Iterable[T], *, depth: int, name: str) -> Iterator[Iterator[T]]:
    """Yield ``items`` in their order, computed by a thread up to ``depth`` items ahead.

    Args:
        items: a generator is closed, in its thread, when the context is left.
        depth: finished items that may wait, ≥ 1.
        name: of the thread.
    """
    ready: queue.Queue[Any] = queue.Queue(depth)
    left = threading.Event()
    failed: list[BaseException] = []

    def put(item: object) -> bool:
        while not left.is_set():
            try:
                ready.put(item, timeout=_LOOK_S)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                if not put(item):
                    break
                # Not kept alive while the next one is worked out.
                del item
        except BaseException as error:
            failed.append(error)
        finally:
            try:
                close = getattr(iterator, "close", None)
                if close is not None:
                    close()
            except BaseException as error:
                failed.append(error)
            put(_END)

    def taken() -> Iterator[T]:
        while (item := ready.get()) is not _END:
            yield item
            del item
        if failed:
            raise failed[0]

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        left.set()
        thread.join()
