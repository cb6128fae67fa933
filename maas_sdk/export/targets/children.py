"""Child processes that compile or run programs, and end with this one.

The rule: a child gets a job as a JSON file, answers with JSON lines on stdout, and never outlives
us. It is killed when another child fails, on Ctrl-C and past its time; it ends by itself when the
pipe that we hold open to its stdin closes, so even a ``kill -9`` of this process leaves nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import maas_sdk
from maas_sdk.bundle.files.staging import disk_errors
from maas_sdk.errors import ExportError

__all__ = ["Child", "cores", "run_children"]

_STDERR_TAIL_CHARS: Final = 3000

# A parent's settings for its own JAX (fake devices, other platforms, dumps) are not the child's.
_DROPPED_PREFIXES: Final = ("XLA_", "JAX_", "LIBTPU_", "PJRT_")


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
    folder: Path,
    timeout_s: float,
    on_step: Callable[[Child, dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """Run children, as many at a time as there are processors.

    Args:
        children: what to run.
        folder: where job files and captured stderr go.
        timeout_s: seconds that each may take.
        on_step: called with each message of a child that is not its last, one call at a time.

    Returns:
        The last message of each child, in order.

    Raises:
        ExportError: a child failed, was killed or took too long; with the end of its stderr.
    """
    if not children:
        return []
    crew = _Crew(folder=folder, timeout_s=timeout_s, on_step=on_step)
    pool = ThreadPoolExecutor(max_workers=min(len(children), cores()))
    try:
        futures = [pool.submit(crew.run, index, child) for index, child in enumerate(children)]
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

    def __init__(
        self,
        *,
        folder: Path,
        timeout_s: float,
        on_step: Callable[[Child, dict[str, Any]], None],
    ) -> None:
        self._folder = folder
        self._timeout_s = timeout_s
        self._on_step = on_step
        self._lock = threading.Lock()
        self._alive: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def stop(self) -> None:
        """Kill the running children and prevent new ones."""
        with self._lock:
            self._stopped = True
            for process in self._alive:
                process.kill()

    def run(self, index: int, child: Child) -> dict[str, Any]:
        """Run one child from start to end; return its last message."""
        job = self._folder / f"job-{index}.json"
        with disk_errors(job):
            job.write_text(json.dumps(child.job))
        complaints = self._folder / f"stderr-{index}.txt"
        with complaints.open("wb") as stderr:
            process = self._start(child, job, stderr)
            late = threading.Event()

            def overdue() -> None:
                late.set()
                process.kill()

            timer = threading.Timer(self._timeout_s, overdue)
            timer.start()
            last: dict[str, Any] = {}
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    if line.startswith(b"{"):
                        last = json.loads(line)
                        if "done" in last:
                            with self._lock:
                                self._on_step(child, last)
                status = process.wait()
            finally:
                timer.cancel()
                with self._lock:
                    self._alive.discard(process)
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()
        if late.is_set():
            raise ExportError(
                f"{child.label}: {child.job['work']} took longer than {self._timeout_s:g} s and "
                "was killed; give it more with timeout_s=",
                child=child.label,
            )
        if "error" in last:
            raise ExportError(f"{child.label}: {last['error']}", child=child.label)
        if status != 0 or "result" not in last:
            raise ExportError(
                f"{child.label}: {child.job['work']} {_ending(status)}.{_tail(complaints)}",
                child=child.label,
                status=status,
            )
        result: dict[str, Any] = last["result"]
        return result

    def _start(self, child: Child, job: Path, stderr: Any) -> subprocess.Popen[bytes]:
        # A path, not -m: importing this package brings jax, which a child must do without. -P
        # keeps the script's folder off sys.path.
        script = Path(__file__).with_name("child.py")
        with self._lock:
            if self._stopped:
                raise ExportError(f"{child.label}: stopped before it started")
            process = subprocess.Popen(
                [sys.executable, "-P", str(script), str(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=_environment(child.xla_flags),
            )
            self._alive.add(process)
        return process


def _environment(xla_flags: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(_DROPPED_PREFIXES)
    }
    # The very package that runs here, wherever it was imported from.
    package = str(Path(maas_sdk.__path__[0]).absolute().parent)
    path = [package, *filter(None, [kept.get("PYTHONPATH")])]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(path),
        "TF_CPP_MIN_LOG_LEVEL": kept.get("TF_CPP_MIN_LOG_LEVEL", "1"),
        **({"XLA_FLAGS": xla_flags} if xla_flags else {}),
    }


def _ending(status: int) -> str:
    if status < 0:
        return f"was killed by signal {-status} (9 is often a lack of memory)"
    return f"ended with status {status}"


def _tail(path: Path) -> str:
    text = path.read_text(errors="replace").strip()[-_STDERR_TAIL_CHARS:]
    return f" The end of its stderr:\n{text}" if text else " It left nothing on stderr"
