"""Processes that compile or run programs, as many at a time as there are processors.

A process that fails ends the others: an export is complete or absent.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from maas_sdk.children.process import ChildProcess
from maas_sdk.errors import ExportError

__all__ = ["Child", "cores", "run_children"]

# A path, not -m: importing this package brings jax, which a child must do without. -P keeps the
# script's folder off sys.path.
_COMMAND: Final = ("-P", str(Path(__file__).with_name("child.py")))


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """One process to run."""

    # What it is, for messages: a target's name.
    label: str
    # What it is to do, as ``child.py`` reads it.
    job: Mapping[str, Any]
    xla_flags: str = ""


def cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_children(
    children: Sequence[Child],
    *,
    timeout_s: float,
    on_step: Callable[[Child, dict[str, Any]], None] = lambda child, message: None,
) -> list[dict[str, Any]]:
    """Run children, as many at a time as there are processors.

    Args:
        children: what to run.
        timeout_s: seconds that each may take.
        on_step: called with each message of a child that is not its last, one call at a time.

    Returns:
        The answer of each child, in order.

    Raises:
        ExportError: a child failed, was killed or took too long; with the end of its stderr.
    """
    if not children:
        return []
    crew = _Crew(timeout_s, on_step)
    pool = ThreadPoolExecutor(max_workers=min(len(children), cores()))
    try:
        futures = [pool.submit(crew.run, child) for child in children]
        wait(futures, return_when=FIRST_EXCEPTION)
        failed = [f for f in futures if f.done() and not f.cancelled() and f.exception()]
        if failed:
            failed[0].result()
        return [future.result() for future in futures]
    finally:
        crew.stop()
        pool.shutdown(cancel_futures=True)


class _Crew:
    """The running children."""

    def __init__(self, timeout_s: float, on_step: Callable[[Child, dict[str, Any]], None]) -> None:
        self._timeout_s = timeout_s
        self._on_step = on_step
        self._lock = threading.Lock()
        self._alive: set[ChildProcess] = set()
        self._stopped = False

    def stop(self) -> None:
        """Kill the running children and prevent new ones."""
        with self._lock:
            self._stopped = True
            for process in self._alive:
                process.kill()

    def run(self, child: Child) -> dict[str, Any]:
        """Run one child from start to end; return its answer."""
        with self._lock:
            if self._stopped:
                raise ExportError(f"{child.label}: stopped before it started")
            process = ChildProcess(
                _COMMAND,
                [child.job],
                timeout_s=self._timeout_s,
                environment={"XLA_FLAGS": child.xla_flags} if child.xla_flags else {},
            )
            self._alive.add(process)
        try:
            with process:
                answers = list(process.answers(lambda message: self._tell(child, message)))
                if not answers:
                    raise _failure(child, process, self._timeout_s)
        finally:
            with self._lock:
                self._alive.discard(process)
        if "error" in answers[0]:
            raise ExportError(f"{child.label}: {answers[0]['error']}", child=child.label)
        result: dict[str, Any] = answers[0]["result"]
        return result

    def _tell(self, child: Child, message: dict[str, Any]) -> None:
        with self._lock:
            self._on_step(child, message)


def _failure(child: Child, process: ChildProcess, timeout_s: float) -> ExportError:
    work = child.job["work"]
    if process.late:
        return ExportError(
            f"{child.label}: {work} took longer than {timeout_s:g} s and "
            "was killed; give it more with timeout_s=",
            child=child.label,
        )
    return ExportError(
        f"{child.label}: {work} {process.ending()}", child=child.label, status=process.status
    )
