"""One program of a bundle: its record in ``manifest.json``, read and written.

The rule of a program's arguments is that of the manifest (``manifest.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from maas_sdk.bundle.files import strict_json as read
from maas_sdk.errors import ManifestError
from maas_sdk.tensors import Signature, TensorSpec

__all__ = ["Program", "Verification", "program_out", "read_program"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """Measurements of ``verify`` on one program: packaged answers against the reference model."""

    # Rows compared, over all buckets and targets.
    rows: int
    # Allowed, per output: |packaged - reference| ≤ atol + rtol · max |reference|, since float
    # noise is relative to an output's scale, not to each element.
    atol: float
    rtol: float
    # Largest |packaged - reference| seen, by output name.
    max_abs_error: Mapping[str, float]
    # Targets whose executables were really run on the exporting host.
    targets_run: tuple[str, ...]
    # Seconds of one run there, by bucket in digits: the fastest of a few, on the best target.
    run_s: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rows < 0 or not (self.atol >= 0 and self.rtol >= 0):
            raise ManifestError(
                "verification: expected rows, atol and rtol ≥ 0, got "
                f"{self.rows}, {self.atol}, {self.rtol}"
            )


class Program(NamedTuple):
    """One named function over the bundle's weights."""

    signature: Signature
    # Names in weights.safetensors, or of encodings, in the order of the compiled program's first
    # arguments.
    weights: tuple[str, ...]
    # Compiled batch sizes, ascending.
    buckets: tuple[int, ...]
    # True: no row's answer depends on another row, so a batch may be padded up to a bucket and
    # split above the largest. False: only batches of exactly a bucket's size are answered.
    row_independent: bool
    # Custom calls in the program, sorted; the runtime registers the ones that jaxlib ships.
    custom_calls: tuple[str, ...] = ()
    # None when export was told not to verify.
    verification: Verification | None = None


def program_out(program: Program) -> dict[str, object]:
    """A program as JSON's values."""
    verification = program.verification
    return {
        "inputs": {name: _spec_out(spec) for name, spec in program.signature.inputs.items()},
        "outputs": {name: _spec_out(spec) for name, spec in program.signature.outputs.items()},
        "weights": list(program.weights),
        "buckets": list(program.buckets),
        "row_independent": program.row_independent,
        "custom_calls": list(program.custom_calls),
        "verification": None
        if verification is None
        else {
            "rows": verification.rows,
            "atol": verification.atol,
            "rtol": verification.rtol,
            "max_abs_error": dict(verification.max_abs_error),
            "targets_run": list(verification.targets_run),
            "run_s": dict(verification.run_s),
        },
    }


def _spec_out(spec: TensorSpec) -> dict[str, object]:
    return {"dtype": spec.dtype, "shape": list(spec.shape)}


def _make_program(*, inputs: Any, outputs: Any, **fields: Any) -> Program:
    return Program(signature=Signature(inputs=inputs, outputs=outputs), **fields)


_SPEC_IN: Final = read.record(
    TensorSpec, {"dtype": read.string, "shape": read.list_of(read.or_null(read.exactly(int)))}
)
_VERIFICATION_IN: Final = read.record(
    Verification,
    {
        "rows": read.exactly(int),
        "atol": read.number,
        "rtol": read.number,
        "max_abs_error": read.map_of(read.number),
        "targets_run": read.list_of(read.string),
        "run_s": read.map_of(read.number),
    },
)
_PROGRAM_IN: Final = read.record(
    _make_program,
    {
        "inputs": read.map_of(_SPEC_IN),
        "outputs": read.map_of(_SPEC_IN),
        "weights": read.list_of(read.string),
        "buckets": read.list_of(read.exactly(int)),
        "row_independent": read.exactly(bool),
        "custom_calls": read.list_of(read.string),
        "verification": read.or_null(_VERIFICATION_IN),
    },
)


def read_program(value: Any, path: str) -> Program:
    """A program from JSON's values; a reader of ``strict_json``."""
    found: Program = _PROGRAM_IN(value, path)
    return found
