"""Packaged answers compared with the reference, per target, program, bucket and output.

The rule: what is compared is what will be served. A process without jax loads the packaged files
and answers; this process only compares. Every executable that this host can run is run in every
bucket. The StableHLO programs, which those executables were compiled from, are compiled and run
in their smallest bucket, or in all of them where no executable can run.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from maas_sdk.bundle.encoding.spec import Encoding
from maas_sdk.bundle.files.staging import disk_errors
from maas_sdk.bundle.files.tolerance import Tolerance, compare
from maas_sdk.bundle.files.weights import open_weights, write_weights
from maas_sdk.bundle.folder import Bundle, open_bundle
from maas_sdk.bundle.manifest import (
    WEIGHTS,
    Program,
    Target,
    executable_path,
    golden_path,
    stablehlo_path,
)
from maas_sdk.errors import ExportError
from maas_sdk.export.events import Progress, Reporter
from maas_sdk.export.targets.children import Child, run_children
from maas_sdk.export.targets.devices import obstacles
from maas_sdk.export.verification.checks import Case, Check, VerificationReport
from maas_sdk.export.verification.tolerance import rtol_of_dtypes
from maas_sdk.tensors import Array

__all__ = ["STABLEHLO", "ReferenceFn", "run_cases", "verify"]

# Stands for the StableHLO programs where a target's name is expected.
STABLEHLO: Final = "stablehlo"

# A reference model: inputs by name to outputs by name, or to the one output's array.
ReferenceFn = Callable[[dict[str, Array]], Any]


def verify(
    bundle: Bundle | str | Path,
    reference: ReferenceFn | Mapping[str, ReferenceFn] | None = None,
    *,
    atol: float | None = None,
    rtol: float | None = None,
    timeout_s: float = 1800.0,
    progress: Progress | None = None,
) -> VerificationReport:
    """Run a bundle's programs here and compare their answers.

    Args:
        bundle: a bundle, or the path of one. All of its hashes are checked first.
        reference: the model, as a function from inputs by name to outputs by name (or to the
            only output's array); a mapping of program names to such functions where there are
            several programs. None: the golden outputs that the export stored.
        atol: absolute tolerance; None: what the export used.
        rtol: tolerance relative to each output's largest magnitude; None: what the export used.
        timeout_s: seconds that each target may take.
        progress: called with an ``Event`` per program that was run.

    Returns:
        Every comparison; failures do not raise, see ``VerificationReport.raise_for_failures``.

    Raises:
        BundleError: the bundle is damaged.
        ExportError: a packaged program could not be run.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))
    opened.require_clear("verify")
    opened.check()
    programs = opened.manifest.programs
    cases: list[Case] = []
    tolerances: dict[str, Tolerance] = {}
    for name, program in programs.items():
        golden = open_weights(opened.path / golden_path(name))
        cases += _golden_cases(name, program, golden, _reference_for(name, reference, programs))
        known = program.verification
        dtypes = [spec.dtype for spec in program.signature.outputs.values()]
        known_atol, known_rtol = (
            (known.atol, known.rtol) if known else (0.0, rtol_of_dtypes(dtypes))
        )
        tolerances[name] = Tolerance(
            atol=known_atol if atol is None else atol, rtol=known_rtol if rtol is None else rtol
        )
    return run_cases(
        opened.path,
        programs,
        opened.manifest.targets,
        opened.manifest.encodings,
        cases,
        tolerances,
        timeout_s=timeout_s,
        report=Reporter(progress=progress),
    )


def _reference_for(
    name: str,
    reference: ReferenceFn | Mapping[str, ReferenceFn] | None,
    programs: Mapping[str, Program],
) -> ReferenceFn | None:
    if reference is None:
        return None
    if isinstance(reference, Mapping):
        unknown = reference.keys() - programs.keys()
        if unknown:
            raise ExportError(f"reference: no program {sorted(unknown)}; has {sorted(programs)}")
        return reference.get(name)
    if len(programs) > 1:
        raise ExportError(
            f"the bundle has the programs {sorted(programs)}: give reference= as a mapping of "
            "program names to functions"
        )
    return reference


def _golden_cases(
    name: str, program: Program, golden: Mapping[str, Array], reference: ReferenceFn | None
) -> list[Case]:
    inputs = _part(golden, "input/")
    outputs = _part(golden, "output/")
    rows = len(next(iter(inputs.values())))
    cases = []
    for bucket in program.buckets:
        if reference is None and not program.row_independent and bucket != rows:
            continue  # golden outputs of other rows say nothing about this batch
        index = np.arange(bucket) % rows
        asked = {key: array[index] for key, array in inputs.items()}
        if reference is not None:
            expected = _named(reference(asked), program)
        else:
            expected = {
                key: outputs[key][index] if spec.shape[:1] == (None,) else outputs[key]
                for key, spec in program.signature.outputs.items()
            }
        cases.append(Case(program=name, bucket=bucket, inputs=asked, expected=expected))
    return cases


def _part(tensors: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


def _named(found: Any, program: Program) -> dict[str, Array]:
    names = list(program.signature.outputs)
    if not isinstance(found, Mapping):
        if len(names) != 1:
            raise ExportError(f"reference: expected a dict of the outputs {names}")
        found = {names[0]: found}
    if sorted(found) != names:
        raise ExportError(f"reference: expected the outputs {names}, got {sorted(found)}")
    return {name: np.asarray(found[name]) for name in names}


def run_cases(
    folder: Path,
    programs: Mapping[str, Program],
    targets: Mapping[str, Target],
    encodings: Mapping[str, Encoding],
    cases: Sequence[Case],
    tolerances: Mapping[str, Tolerance],
    *,
    timeout_s: float,
    report: Reporter,
) -> VerificationReport:
    """Run every case of a bundle's folder, sealed or not yet, on every target that can run here.

    Raises:
        ExportError: a packaged program could not be run.
    """
    skipped = obstacles(targets, timeout_s=timeout_s)
    runnable = tuple(name for name in targets if name not in skipped)
    plan = {name: list(cases) for name in runnable}
    smallest = {case.program: case.bucket for case in sorted(cases, key=lambda c: -c.bucket)}
    plan[STABLEHLO] = [
        case for case in cases if not runnable or case.bucket == smallest[case.program]
    ]
    with tempfile.TemporaryDirectory(prefix="maas-verify-") as name:
        scratch = Path(name)
        with disk_errors(scratch):
            for case in cases:
                write_weights(scratch / f"{case.stem}.inputs", case.inputs)
        children = [
            _child(
                target,
                targets[target].platform if target in targets else "cpu",
                *(folder, programs, encodings, chosen, scratch),
            )
            for target, chosen in plan.items()
        ]

        done: Counter[str] = Counter()

        def on_step(child: Child, message: dict[str, Any]) -> None:
            done[child.label] += 1
            report.step(
                "verify",
                message["done"],
                done=done[child.label],
                total=len(plan[child.label]),
                target=child.label,
            )

        results = run_children(children, timeout_s=timeout_s, on_step=on_step)
        checks = [
            check
            for target, chosen in plan.items()
            for case in chosen
            for check in _checks(
                target,
                case,
                open_weights(scratch / f"{case.stem}.{target}"),
                tolerances[case.program],
            )
        ]
    return VerificationReport(
        checks=tuple(checks),
        tolerances=dict(tolerances),
        targets_run=runnable,
        targets_skipped=skipped,
        run_s={
            (case.program, case.bucket): min(
                result["run_s"][case.stem] for result in results if case.stem in result["run_s"]
            )
            for case in cases
        },
    )


def _child(
    target: str,
    platform: str,
    folder: Path,
    programs: Mapping[str, Program],
    encodings: Mapping[str, Encoding],
    chosen: Sequence[Case],
    scratch: Path,
) -> Child:
    runs = []
    for case in chosen:
        program = programs[case.program]
        compiled = target != STABLEHLO
        runs.append(
            {
                "name": case.stem,
                "kind": "executable" if compiled else "program",
                "file": str(
                    folder
                    / (
                        executable_path(target, case.program, case.bucket)
                        if compiled
                        else stablehlo_path(case.program, case.bucket)
                    )
                ),
                "weights": list(program.weights),
                "inputs": str(scratch / f"{case.stem}.inputs"),
                "outputs": str(scratch / f"{case.stem}.{target}"),
                "results": [
                    [name, spec.dtype, [case.bucket if d is None else d for d in spec.shape]]
                    for name, spec in program.signature.outputs.items()
                ],
            }
        )
    calls = sorted({call for program in programs.values() for call in program.custom_calls})
    job = {
        "work": "run",
        "platform": platform,
        "weights": str(folder / WEIGHTS),
        "encodings": {name: encoding.document() for name, encoding in encodings.items()},
        "runs": runs,
        "custom_calls": calls if platform == "cpu" else [],
    }
    return Child(label=target, job=job)


def _checks(
    target: str, case: Case, answers: Mapping[str, Array], tolerance: Tolerance
) -> list[Check]:
    checks = []
    for name, expected in case.expected.items():
        answer = answers[name]
        if answer.shape != expected.shape or answer.dtype != expected.dtype:
            raise ExportError(
                f"program {case.program!r}, output {name!r}: the reference gives "
                f"{expected.dtype}{list(expected.shape)}, the package "
                f"{answer.dtype}{list(answer.shape)}"
            )
        difference = compare(answer, expected)
        checks.append(
            Check(
                program=case.program,
                target=target,
                bucket=case.bucket,
                output=name,
                max_abs_error=difference.max_abs_error,
                allowed=tolerance.allowed(expected),
                index=difference.where,
            )
        )
    return checks
