"""Programs compiled ahead of time: one process per target, all programs and buckets in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maas_sdk.bundle.manifest import Target, executable_path, stablehlo_path
from maas_sdk.export.events import Reporter
from maas_sdk.export.targets.children import Child, run_children
from maas_sdk.export.targets.names import TargetSpec

__all__ = ["compile_targets"]


def compile_targets(
    specs: Sequence[TargetSpec],
    buckets: Mapping[str, Sequence[int]],
    *,
    programs: Mapping[str, Path],
    folder: Path,
    custom_calls: Sequence[str],
    timeout_s: float,
    report: Reporter,
) -> dict[str, Target]:
    """Compile every program for every target.

    Args:
        specs: what to compile for.
        buckets: batch sizes of each program.
        programs: by what a target's programs are lowered for, the folder that holds them, laid out
            as a bundle.
        folder: the bundle's folder, into which executables are written.
        custom_calls: functions that the programs call.
        timeout_s: seconds that one target may take.
        report: told of every finished executable.

    Raises:
        ExportError: a compiling process failed or took too long.
    """
    children = [
        _child(spec, buckets, programs[spec.lowering], folder, custom_calls) for spec in specs
    ]
    total = sum(len(sizes) for sizes in buckets.values())
    done: Counter[str] = Counter()

    def on_step(child: Child, message: dict[str, Any]) -> None:
        done[child.label] += 1
        report.step(
            "compile",
            message["done"],
            done=done[child.label],
            total=total,
            target=child.label,
        )

    results = run_children(children, timeout_s=timeout_s, on_step=on_step)
    return {
        spec.name: Target(
            platform=spec.platform,
            arch=spec.arch,
            jaxlib=result["jaxlib"],
            cpu_features=tuple(result["cpu_features"]),
        )
        for spec, result in zip(specs, results, strict=True)
    }


def _child(
    spec: TargetSpec,
    buckets: Mapping[str, Sequence[int]],
    programs: Path,
    folder: Path,
    custom_calls: Sequence[str],
) -> Child:
    items = []
    for program, sizes in buckets.items():
        for bucket in sizes:
            executable = folder / executable_path(spec.name, program, bucket)
            executable.parent.mkdir(parents=True, exist_ok=True)
            items.append(
                {
                    "name": f"{program}-b{bucket}",
                    "program": str(programs / stablehlo_path(program, bucket)),
                    "executable": str(executable),
                }
            )
    return Child(
        label=spec.name,
        job={
            "work": "compile",
            "platform": spec.platform,
            "arch": spec.arch,
            "items": items,
            "custom_calls": list(custom_calls) if spec.platform == "cpu" else [],
        },
        xla_flags=spec.xla_flags,
    )
