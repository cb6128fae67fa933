"""Plan of one program before lowering: signature, weights, rows, tolerance.

The rule: whatever is decided here about the program (exact batches only, which weights are
arguments) follows from the traced model and from numbers, and is reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from maas_sdk.bundle.files.tolerance import Tolerance
from maas_sdk.errors import ExportError
from maas_sdk.export.events import Reporter
from maas_sdk.export.inputs import ExportRequest
from maas_sdk.export.programs import ReferenceModel, signature
from maas_sdk.export.verification.checks import Case
from maas_sdk.export.verification.row_independence import row_dependence
from maas_sdk.export.verification.tolerance import default_rtol
from maas_sdk.model.adapt import Model
from maas_sdk.tensors import Array, Signature

__all__ = ["Plan", "make_plan"]

# Rows that the reference answers; as many of them as the user gave stay in the bundle.
_REFERENCE_ROWS: Final = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One traced program and the decisions about it."""

    request: ExportRequest
    reference: ReferenceModel
    signature: Signature
    # Per leaf of the model, whether it is an argument.
    keep: tuple[bool, ...]
    row_independent: bool
    tolerance: Tolerance
    # One batch and the reference's answer to it.
    inputs: dict[str, Array]
    outputs: dict[str, Array]

    def golden(self) -> dict[str, Array]:
        """Return the golden tensors for the bundle: ``input/<name>`` and ``output/<name>``."""
        rows = min(self.request.examples.rows, len(next(iter(self.inputs.values()))))
        # Exact batches stay whole: their rows mean nothing apart.
        cut = slice(rows) if self.row_independent else slice(None)
        return {
            **{f"input/{name}": array[cut] for name, array in self.inputs.items()},
            **{
                f"output/{name}": array[cut] if array.ndim else array
                for name, array in self.outputs.items()
            },
        }

    def cases(self) -> Iterator[Case]:
        """Yield the verification inputs of every bucket, with the reference's answers."""
        for bucket in self.request.buckets:
            if self.row_independent:
                index = np.arange(bucket) % len(next(iter(self.inputs.values())))
                inputs = {name: array[index] for name, array in self.inputs.items()}
                expected = {name: array[index] for name, array in self.outputs.items()}
            else:
                inputs = self.request.examples.take(bucket)
                expected = self.reference(inputs)
            yield Case(program=self.request.name, bucket=bucket, inputs=inputs, expected=expected)


def make_plan(
    model: Model, request: ExportRequest, atol: float | None, rtol: float | None, report: Reporter
) -> Plan:
    """Trace a program at every bucket and determine its entry in the manifest.

    Args:
        model: the model, taken apart.
        request: the program.
        atol: the user's absolute tolerance; None: 0.
        rtol: the user's relative tolerance; None: by the arithmetic of the program.
        report: told of every traced bucket, and warned about dependent rows.

    Raises:
        ExportError: the model raised while it was traced, or cannot be served.
    """
    reference = ReferenceModel(model=model, request=request, traces={})
    for done, bucket in enumerate(request.buckets, 1):
        reference.trace(bucket)
        report.step("trace", f"{request.name}-b{bucket}", done=done, total=len(request.buckets))
    largest = reference.trace(request.buckets[-1])
    tolerance = Tolerance(
        atol=0.0 if atol is None else atol,
        rtol=default_rtol(largest.jaxpr) if rtol is None else rtol,
    )
    # At least two rows, so that there is another row to be independent of.
    rows = max(2, min(request.examples.rows, _REFERENCE_ROWS))
    reason = _dependence(reference, rows, tolerance)
    if reason is not None:
        report.warn(
            "check",
            f"program {request.name!r}: {reason}. It is exported for batches of exactly "
            f"{', '.join(map(str, request.buckets))} rows; nothing is padded or split",
        )
    report.step("check", f"{request.name}: rows {'depend' if reason else 'are independent'}")
    traces = list(reference.traces.values())
    inputs = request.examples.take(rows if reason is None else request.buckets[0])
    return Plan(
        request=request,
        reference=reference,
        signature=signature(request, traces),
        keep=tuple(any(flags) for flags in zip(*(t.used for t in traces), strict=True)),
        row_independent=reason is None,
        tolerance=tolerance,
        inputs=inputs,
        outputs=reference(inputs),
    )


def _dependence(reference: ReferenceModel, rows: int, tolerance: Tolerance) -> str | None:
    """Return the reason why rows are not independent, or None."""
    sizes = list(reference.traces)
    try:
        reference.trace(rows)
        reference.trace(1)
    except ExportError:
        if rows in sizes and 1 in sizes:
            raise
        return "it cannot be traced at other batch sizes"
    spec = signature(reference.request, reference.traces.values())
    fixed = [name for name, out in spec.outputs.items() if out.shape[:1] != (None,)]
    if fixed:
        return f"output {fixed[0]!r} has no batch dimension"
    return row_dependence(reference, reference.request.examples.take(rows), tolerance)
