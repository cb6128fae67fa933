"""``export``: a model → a bundle.

The order is: trace every program at every batch size, ask whether rows are independent, lower to
StableHLO, compile per target, compare with the reference model, and only then seal. A bundle that
exists has been verified, or says that it was not.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from maas_sdk.bundle.encoding.spec import Encoding
from maas_sdk.bundle.files.weights import write_weights
from maas_sdk.bundle.folder import Bundle, BundleWriter
from maas_sdk.bundle.manifest import (
    WEIGHTS,
    Manifest,
    Program,
    golden_path,
    stablehlo_path,
)
from maas_sdk.errors import ExportError, ManifestError
from maas_sdk.export.events import Progress, Reporter
from maas_sdk.export.inputs import DEFAULT_BUCKETS, ExportRequest, ProgramSpec, requests
from maas_sdk.export.program_plan import Plan, make_plan
from maas_sdk.export.programs import lower
from maas_sdk.export.stored_leaves import stored_form
from maas_sdk.export.targets.executables import compile_targets
from maas_sdk.export.targets.names import TargetSpec, find_targets
from maas_sdk.export.targets.tpu import compile_for_tpus, libtpu_version
from maas_sdk.export.verification.answers import run_cases
from maas_sdk.model.adapt import Model, ProgramFn, adapt
from maas_sdk.tensors import Signature

__all__ = ["export"]

# Distributions that take part in an export, where they are loaded.
_PRODUCERS: Final = {
    "maas_sdk": "maas-sdk",
    "jax": "jax",
    "jaxlib": "jaxlib",
    "flax": "flax",
    "numpy": "numpy",
    "qwix": "qwix",
}


def export(
    model_or_apply: Any,
    example_inputs: Any,
    *,
    path: str | Path,
    name: str = "model",
    weights: Any = None,
    programs: Mapping[str, ProgramFn | ProgramSpec] | None = None,
    buckets: Iterable[int] = DEFAULT_BUCKETS,
    targets: Iterable[str] | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    verify: bool = True,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    timeout_s: float = 1800.0,
) -> Bundle:
    """Export a model as a bundle.

    Args:
        model_or_apply: an ``nnx.Module``; a linen ``Module`` together with ``weights``; a
            function ``apply(weights, inputs)``; or an ``Exportable``, such as a compressed
            model. An nnx module is exported in evaluation mode and is not changed.
        example_inputs: one array [B, …], which becomes the input ``input``; or a dict of arrays
            by input name, all with the same B ≥ 1. A few real rows are best: they are what the
            bundle is verified with, and a few of them are kept in it.
        path: the folder to write, by custom ``<name>.maas``.
        name: name of the model.
        weights: linen variables, or a pytree of arrays for ``apply``.
        programs: programs by name over the one set of weights. Each is None (the model's own
            call), a method's name, a function (model, inputs), or a ``ProgramSpec`` with its own
            example inputs or buckets. None: ``{"predict": None}``. Functions of a linen model
            take the module bound to its variables; those of an ``apply`` take the weights.
        buckets: batch sizes to compile.
        targets: names of ``TARGETS``, CPUs and TPUs; None: the levels of this machine's
            processor; (): StableHLO only.
        atol: absolute tolerance of the verification, 0 if None.
        rtol: tolerance relative to each output's largest magnitude; None: by the arithmetic of
            the program, 5e-5 for float32, 2e-2 for bfloat16 and int8.
        verify: compare packaged answers with the model before the bundle is sealed.
        metadata: words of your own for the manifest.
        progress: called with an ``Event`` for each finished step, from several threads but one
            call at a time.
        overwrite: replace what is at ``path``.
        timeout_s: seconds that one target may take to compile, or to verify.

    Returns:
        The sealed bundle.

    Raises:
        ExportError: the model, the inputs or the options do not fit together; packaged answers
            differ from the model's. Nothing is left at ``path``.
        ConfigError: ``path`` exists and ``overwrite`` is off.
        StorageError: the disk is full.
    """
    report = Reporter(progress=progress)
    writer = BundleWriter(path, overwrite=overwrite)
    specs = find_targets(targets)
    asked = requests(programs, example_inputs, buckets, report)
    _check_names(name, asked)
    model = adapt(model_or_apply, weights)
    for note in model.notes:
        report.warn("trace", note)
    plans = [make_plan(model, request, atol, rtol, report) for request in asked]
    with (
        writer,
        tempfile.TemporaryDirectory(prefix="maas-export-") as scratch,
    ):
        manifest = _fill(
            writer, model, plans, specs, scratch=Path(scratch), timeout_s=timeout_s, report=report
        )
        if verify:
            manifest = _verified(writer.path, manifest, plans, timeout_s, report)
        sealed = writer.seal(
            replace(
                manifest,
                name=name,
                metadata=dict(metadata or {}),
                producer=_producer(specs),
                created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            )
        )
    report.step("write", str(sealed.path))
    return sealed


def _check_names(name: str, asked: Sequence[ExportRequest]) -> None:
    """Check names against the manifest's rule before any work is done."""
    empty = Program(
        signature=Signature(inputs={}, outputs={}), weights=(), buckets=(1,), row_independent=True
    )
    try:
        Manifest(name=name, programs={request.name: empty for request in asked}, targets={})
    except ManifestError as error:
        raise ExportError(error.message.replace("manifest.", "", 1)) from error


def _fill(
    writer: BundleWriter,
    model: Model,
    plans: Sequence[Plan],
    specs: Sequence[TargetSpec],
    *,
    scratch: Path,
    timeout_s: float,
    report: Reporter,
) -> Manifest:
    """Write everything but the manifest into the bundle's folder; return the manifest."""
    programs: dict[str, Program] = {}
    for plan in plans:
        request = plan.request
        calls: set[str] = set()
        for done, bucket in enumerate(request.buckets, 1):
            lowered = lower(plan.reference.trace(bucket), plan.keep, name=request.name)
            calls.update(lowered.custom_calls)
            writer.add(stablehlo_path(request.name, bucket), lowered.data)
            report.step("lower", f"{request.name}-b{bucket}", done=done, total=len(request.buckets))
        programs[request.name] = Program(
            signature=plan.signature,
            weights=tuple(
                leaf.name for leaf, kept in zip(model.leaves, plan.keep, strict=True) if kept
            ),
            buckets=request.buckets,
            row_independent=plan.row_independent,
            custom_calls=tuple(sorted(calls)),
        )
    encodings = _write_tensors(writer.path, model, plans, report)
    on_tpus = [spec for spec in specs if spec.platform == "tpu"]
    lowered_for = {"cpu": writer.path}
    if any(spec.lowering == "cuda" for spec in specs):
        lowered_for["cuda"] = _lowered_for_gpus(plans, scratch / "cuda")
    targets = compile_targets(
        [spec for spec in specs if spec not in on_tpus],
        {name: program.buckets for name, program in programs.items()},
        programs=lowered_for,
        folder=writer.path,
        custom_calls=sorted({call for p in programs.values() for call in p.custom_calls}),
        timeout_s=timeout_s,
        report=report,
    )
    targets |= compile_for_tpus(
        on_tpus, plans, folder=writer.path, scratch=scratch, timeout_s=timeout_s, report=report
    )
    return Manifest(
        name="model",
        programs=programs,
        targets=targets,
        encodings=encodings,
        compression=model.compression,
    )


def _lowered_for_gpus(plans: Sequence[Plan], folder: Path) -> Path:
    """Lower programs in the forms that suit a GPU, laid out as in a bundle.

    Raises:
        ExportError: a program calls what only jax's own functions on a GPU do.
    """
    for plan in plans:
        for bucket in plan.request.buckets:
            name = plan.request.name
            lowered = lower(plan.reference.trace(bucket), plan.keep, name=name, platform="cuda")
            if lowered.custom_calls:
                raise ExportError(
                    f"program {name!r} calls {', '.join(lowered.custom_calls)} on a GPU, which "
                    "jax brings along and a served model has not: leave the cuda targets out"
                )
            path = folder / stablehlo_path(name, bucket)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(lowered.data)
    return folder


def _write_tensors(
    folder: Path, model: Model, plans: Sequence[Plan], report: Reporter
) -> dict[str, Encoding]:
    """Write the weights that any program uses, once each, and every program's golden rows.

    Returns:
        How the weights that are stored encoded are made, and what the programs consume.
    """
    kept = [any(flags) for flags in zip(*(plan.keep for plan in plans), strict=True)]
    used = [leaf for leaf, keep in zip(model.leaves, kept, strict=True) if keep]
    tensors, encodings = stored_form(used, model.encodings)
    narrowed = [
        leaf.name for leaf in used if leaf.stored is None and leaf.dtype != tensors[leaf.name].dtype
    ]
    if narrowed:
        report.warn(
            "write",
            f"weights {', '.join(narrowed)}: 64-bit, stored as jax computes with them, in 32 bits",
        )
    write_weights(folder / WEIGHTS, tensors)
    report.step("write", WEIGHTS)
    for plan in plans:
        target = folder / golden_path(plan.request.name)
        target.parent.mkdir(exist_ok=True)
        write_weights(target, plan.golden())
    return encodings


def _verified(
    folder: Path, manifest: Manifest, plans: Sequence[Plan], timeout_s: float, report: Reporter
) -> Manifest:
    """Return the manifest with the verification's results.

    Raises:
        ExportError: a packaged answer is outside its tolerance.
    """
    found = run_cases(
        folder,
        manifest.programs,
        manifest.targets,
        manifest.encodings,
        [case for plan in plans for case in plan.cases()],
        {plan.request.name: plan.tolerance for plan in plans},
        timeout_s=timeout_s,
        report=report,
    )
    found.raise_for_failures()
    programs = {
        name: program._replace(verification=found.of_program(name))
        for name, program in manifest.programs.items()
    }
    return replace(manifest, programs=programs)


def _producer(specs: Sequence[TargetSpec]) -> dict[str, str]:
    found = {
        distribution: version(distribution)
        for module, distribution in _PRODUCERS.items()
        if module in sys.modules
    }
    if any(spec.platform == "tpu" for spec in specs):
        found["libtpu"] = libtpu_version()
    return found
