"""Executables for a TPU, made by the real TPU compiler on a machine without one.

Each program is lowered for TPUs, compiled for one chip in a process beside this one
(``tpu/compiler.py``) and serialized. The rule it keeps: a program that the compiler says
does not fit the chip's memory is no executable, and the export ends before anything is sealed.

Nothing here runs what was compiled: a bundle's answers are verified on this machine's own targets.
An executable is read by the libtpu that compiled it; the manifest's ``producer`` says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from maas_sdk.bundle.manifest import Target, executable_path
from maas_sdk.errors import ConfigError, ExportError, MaasError, MachineError
from maas_sdk.export.events import Reporter
from maas_sdk.export.program_plan import Plan
from maas_sdk.export.programs import pruned
from maas_sdk.export.targets.names import TargetSpec
from maas_sdk.runtime import xla
from maas_sdk.tpu import exported
from maas_sdk.tpu.compiler import Answer, CompileJob, compile_jobs
from maas_sdk.tpu.libtpu import find_libtpu

__all__ = ["compile_for_tpus", "libtpu_version"]

_MIB: Final = 2**20


def libtpu_version() -> str:
    """Return the version of the TPU compiler here. Raises ``DependencyError`` if it lacks one."""
    return find_libtpu().version


def compile_for_tpus(
    specs: Sequence[TargetSpec],
    plans: Sequence[Plan],
    *,
    folder: Path,
    scratch: Path,
    timeout_s: float,
    report: Reporter,
) -> dict[str, Target]:
    """Compile every program at every batch size for each of some chips.

    Args:
        specs: the chips; none is fine.
        plans: the programs.
        folder: the bundle's folder, into which executables are written.
        scratch: a folder for what the compiler reads.
        timeout_s: seconds that one program may take.
        report: told of every finished executable and what it takes of the chip's memory.

    Raises:
        ExportError: a program does not fit the chip, or the compiler failed.
    """
    jobs = []
    names = {}
    for plan in plans:
        for bucket in plan.request.buckets if specs else ():
            program = f"{plan.request.name}-b{bucket}"
            file = scratch / f"{program}.tpu"
            function, avals = pruned(plan.reference.trace(bucket), plan.keep, plan.request.name)
            exported.write(file, function, *avals)
            weights = sum(plan.keep)
            kinds = ["weights"] * weights + ["batch"] * (len(avals) - weights)
            for spec in specs:
                target = folder / executable_path(spec.name, plan.request.name, bucket)
                target.parent.mkdir(parents=True, exist_ok=True)
                job = CompileJob(
                    label=f"{program} for {spec.name}",
                    recipe=exported.RECIPE,
                    options={"file": str(file), "kinds": kinds},
                    slice=f"{spec.arch}:1x1" if spec.arch != "v5p" else "v5p:1x1x1",
                    axes={"chip": 1},
                    executable_file=str(target),
                )
                names[job.label] = program, spec.name
                jobs.append(job)
    done: list[str] = []

    def tell(answer: Answer) -> None:
        program, target = names[answer.job.label]
        done.append(target)
        if answer.result is not None and answer.result["fits"]:
            taken = sum(answer.result["memory"][kind] for kind in ("argument", "output", "temp"))
            report.step(
                "compile",
                f"{program} ({taken / _MIB:.1f} MiB of the chip)",
                done=done.count(target),
                total=len(jobs) // len(specs),
                target=target,
            )

    try:
        answers = compile_jobs(jobs, timeout_s=timeout_s, on_answer=tell) if jobs else ()
    except (ConfigError, MachineError) as error:
        raise ExportError(error.message) from error
    for answer in answers:
        _check(answer)
    build = xla.jaxlib_build()
    return {spec.name: Target(platform="tpu", arch=spec.arch, jaxlib=build) for spec in specs}


def _check(answer: Answer) -> None:
    """Raise the error of a failed compilation."""
    if isinstance(answer.error, MaasError):
        raise ExportError(answer.error.message) from answer.error
    assert answer.result is not None
    if not answer.result["fits"]:
        raise ExportError(
            f"{answer.job.label}: needs {answer.result['needs_bytes'] / _MIB:,.0f} MiB, the chip "
            f"offers {answer.result['limit_bytes'] / _MIB:,.0f}: export smaller buckets, quantize "
            "the model, or choose a chip with more memory",
            needs_bytes=answer.result["needs_bytes"],
            limit_bytes=answer.result["limit_bytes"],
        )
