"""The real TPU compiler, in a child process that needs no TPU.

The rule it keeps: this process never loads libtpu. A child is started with libtpu on its path, gets
jobs as a JSON file, and answers with one JSON line per job. It never outlives us: it is killed on
Ctrl-C and past its time, and ends by itself when the pipe to its stdin closes. What one job does to
it (an error, an abort of the compiler, too much time) is that job's answer; the jobs after it get a
new child.

A program that does not fit is an answer too: ``fits`` is False, and the compiler's own figures say
by how much.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from maas_sdk.errors import ConfigError, MaasError, MachineError, error_from_code
from maas_sdk.tpu.libtpu import Libtpu, find_libtpu

__all__ = ["Answer", "CompileJob", "compile_jobs"]

_STDERR_TAIL_CHARS: Final = 2000

# A parent's settings for its own JAX (fake devices, dumps) are not the compiler's; what libtpu
# would ask of a machine with TPUs it must not ask here.
_DROPPED_PREFIXES: Final = ("XLA_", "JAX_", "LIBTPU_", "PJRT_", "TPU_")
_ENVIRONMENT: Final = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    # It would let one process at a time have the chips, which nobody here wants.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileJob:
    """One program to compile for one slice."""

    # What it is called in progress, errors and results.
    label: str
    # ``module:function`` or ``file.py:function`` of a recipe; see ``program``.
    recipe: str
    # JSON values, given to the recipe by name.
    options: Mapping[str, Any] = field(default_factory=dict)
    # ``v5e:4x4``
    slice: str
    # Mesh axes in order, outermost first; their sizes multiply to the chips of the slice.
    axes: Mapping[str, int]
    # Where to write the compiled program's text; None does not.
    hlo_file: str | None = None
    # Where to write the executable, as a TPU's runtime loads it; None does not.
    executable_file: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Outcome of a job: a result or an error, never both."""

    job: CompileJob
    # The child's document; see ``child.compile_job``.
    result: Mapping[str, Any] | None
    error: MaasError | None


def compile_jobs(
    jobs: Sequence[CompileJob],
    *,
    timeout_s: float = 900.0,
    libtpu: Libtpu | None = None,
    on_answer: Callable[[Answer], None] = lambda _: None,
) -> tuple[Answer, ...]:
    """Compile jobs one after the other, in one child as long as it lives.

    Args:
        jobs: what to compile.
        timeout_s: seconds that each may take.
        libtpu: the compiler; None looks for it.
        on_answer: called with each answer as it comes.

    Returns:
        An answer for each job, in order.

    Raises:
        ConfigError: there is no TPU compiler, or the wrong one.
    """
    found = libtpu or find_libtpu()
    answers: list[Answer] = []
    while len(answers) < len(jobs):
        before = len(answers)
        for answer in _run_child(jobs[before:], found, timeout_s):
            answers.append(answer)
            on_answer(answer)
    return tuple(answers)


def _run_child(jobs: Sequence[CompileJob], libtpu: Libtpu, timeout_s: float) -> Any:
    """Return answers until the child ends; at least one."""
    with tempfile.TemporaryDirectory(prefix="maas-plan-") as folder:
        job_file, complaints = Path(folder, "jobs.json"), Path(folder, "stderr.txt")
        document = {"libtpu": str(libtpu.folder), "jobs": [_to_dict(job) for job in jobs]}
        job_file.write_text(json.dumps(document))
        with complaints.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "maas_sdk.tpu.child", str(job_file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=_environment(),
                # Ctrl-C is ours to handle: a child that heard it too would print a traceback.
                start_new_session=True,
            )
            answered = 0
            clock = _Clock(process, timeout_s)
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    if line.startswith(b'{"plan"'):
                        clock.reset()
                        yield _answer(jobs[answered], json.loads(line)["plan"])
                        answered += 1
                status = process.wait()
            finally:
                clock.stop()
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()
        if answered < len(jobs):
            yield Answer(
                job=jobs[answered],
                result=None,
                error=_ending(jobs[answered], status, clock.late, timeout_s, complaints),
            )


class _Clock:
    """Timer that kills a child when it is silent for too long."""

    def __init__(self, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        self.late = False
        self._process = process
        self._timeout_s = timeout_s
        self._timer: threading.Timer | None = None
        self.reset()

    def reset(self) -> None:
        self.stop()
        self._timer = threading.Timer(self._timeout_s, self._overdue)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _overdue(self) -> None:
        self.late = True
        self._process.kill()


def _to_dict(job: CompileJob) -> dict[str, Any]:
    return {
        "label": job.label,
        "recipe": job.recipe,
        "options": dict(job.options),
        "slice": job.slice,
        # As pairs: an object's order would be the reader's affair.
        "axes": list(job.axes.items()),
        "hlo_file": job.hlo_file,
        "executable_file": job.executable_file,
    }


def _answer(job: CompileJob, document: Mapping[str, Any]) -> Answer:
    if "error" in document:
        error = error_from_code(document["code"], f"{job.label}: {document['error']}")
        return Answer(job=job, result=None, error=error)
    return Answer(job=job, result=document["result"], error=None)


def _ending(
    job: CompileJob, status: int, late: bool, timeout_s: float, complaints: Path
) -> ConfigError | MaasError:
    if late:
        return MachineError(
            f"{job.label}: the TPU compiler took longer than {timeout_s:g} s for {job.slice} and "
            "was ended; give it more time, or compile a scanned model (scan_layers)",
            timeout_s=timeout_s,
        )
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    hint = " (9 is often a lack of memory)" if status == -9 else ""
    text = complaints.read_text(errors="replace").strip()[-_STDERR_TAIL_CHARS:]
    return MaasError(
        f"{job.label}: the TPU compiler {how}{hint} while it compiled for {job.slice}."
        + (f" The end of what it said:\n{text}" if text else ""),
        status=status,
    )


def _environment() -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(_DROPPED_PREFIXES)
    }
    # The very package that runs here, wherever it was imported from; and the user's own modules.
    package = str(Path(__file__).absolute().parents[3])
    path = [package, *filter(None, [kept.get("PYTHONPATH")]), os.getcwd()]
    return {**kept, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path)}
