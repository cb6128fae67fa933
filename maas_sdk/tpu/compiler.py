"""The real TPU compiler, in a child process that needs no TPU.

The rule: this process never loads libtpu (tests/test_tpu_compiler.py). A child of
``children.process`` does. What one job does to it (an error, an abort of the compiler, too much
time) is that job's answer; the jobs after it get a new child.

A program that does not fit is an answer too: ``fits`` is False, and the compiler's own figures say
by how much.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from maas_sdk.children.process import ChildProcess
from maas_sdk.errors import MaasError, MachineError, error_from_code
from maas_sdk.tpu.libtpu import VARIABLE, Libtpu, find_libtpu

__all__ = ["Answer", "CompileJob", "compile_jobs"]

# What libtpu would ask of a machine with TPUs it must not ask here.
_ENVIRONMENT: Final = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    # It would let one process at a time have the chips, which nobody here wants.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
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
        DependencyError: there is no TPU compiler, or the wrong one.
    """
    found = libtpu or find_libtpu()
    answers: list[Answer] = []
    while len(answers) < len(jobs):
        before = len(answers)
        for answer in _run_child(jobs[before:], found, timeout_s):
            answers.append(answer)
            on_answer(answer)
    return tuple(answers)


def _run_child(
    jobs: Sequence[CompileJob], libtpu: Libtpu, timeout_s: float
) -> Generator[Answer, None, None]:
    """Yield answers until the child ends; at least one."""
    process = ChildProcess(
        ["-m", "maas_sdk.tpu.child"],
        # Axes as pairs: an object's order would be the reader's affair.
        [
            {**asdict(job), "options": dict(job.options), "axes": list(job.axes.items())}
            for job in jobs
        ],
        timeout_s=timeout_s,
        environment={**_ENVIRONMENT, VARIABLE: str(libtpu.folder)},
        dropped_prefixes=["TPU_"],
    )
    answered = 0
    with process:
        for said in process.answers():
            yield _answer(jobs[answered], said)
            answered += 1
        if answered < len(jobs):
            yield Answer(
                job=jobs[answered],
                result=None,
                error=_failure(jobs[answered], process, timeout_s),
            )


def _answer(job: CompileJob, said: Mapping[str, Any]) -> Answer:
    if "error" in said:
        error = error_from_code(said["code"], f"{job.label}: {said['error']}")
        return Answer(job=job, result=None, error=error)
    return Answer(job=job, result=said["result"], error=None)


def _failure(job: CompileJob, process: ChildProcess, timeout_s: float) -> MaasError:
    if process.late:
        return MachineError(
            f"{job.label}: the TPU compiler took longer than {timeout_s:g} s for {job.slice} and "
            "was ended; give it more time, or compile a scanned model (scan_layers)",
            timeout_s=timeout_s,
        )
    return MaasError(
        f"{job.label}: while it compiled for {job.slice}, the TPU compiler {process.ending()}",
        status=process.status,
    )
