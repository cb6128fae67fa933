"""Values of a verification: its inputs, its comparisons, and its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from maas_sdk.bundle.files.tolerance import Tolerance
from maas_sdk.bundle.manifest import Verification
from maas_sdk.errors import ExportError
from maas_sdk.tensors import Array

__all__ = ["Case", "Check", "VerificationReport"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Inputs of one bucket of a program, and the reference's answers."""

    program: str
    bucket: int
    # By name, sorted; each [bucket, …].
    inputs: Mapping[str, Array]
    # Outputs of the reference for just these inputs.
    expected: Mapping[str, Array]

    @property
    def stem(self) -> str:
        """Name in files and messages; a program has one case per bucket."""
        return f"{self.program}-b{self.bucket}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One output of one packaged program against the reference."""

    program: str
    # A target's name, or ``verify.STABLEHLO``.
    target: str
    bucket: int
    output: str
    max_abs_error: float
    allowed: float
    # Where the largest error is.
    index: tuple[int, ...]

    @property
    def ok(self) -> bool:
        """True when the error is allowed."""
        return self.max_abs_error <= self.allowed

    def __str__(self) -> str:
        return (
            f"program {self.program!r} on {self.target}, bucket {self.bucket}, output "
            f"{self.output!r}: largest error {self.max_abs_error:.3g} at {list(self.index)}, "
            f"allowed {self.allowed:.3g}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class VerificationReport:
    """All comparisons of a verification."""

    checks: tuple[Check, ...]
    tolerances: Mapping[str, Tolerance]
    # Targets whose executables were run.
    targets_run: tuple[str, ...]
    # Why the other targets could not be run here, by name.
    targets_skipped: Mapping[str, str]
    # Seconds of one run, by program and bucket: the fastest of a few on the best target.
    run_s: Mapping[tuple[str, int], float]

    @property
    def ok(self) -> bool:
        """True when every answer is within tolerance."""
        return not self.failures

    @property
    def failures(self) -> tuple[Check, ...]:
        """Checks that failed, the worst first."""
        failed = [check for check in self.checks if not check.ok]
        worst = sorted(failed, key=lambda c: c.max_abs_error / (c.allowed or 1e-300), reverse=True)
        return tuple(worst)

    def raise_for_failures(self) -> None:
        """Raise ``ExportError`` about the worst failure, if there is one."""
        if self.ok:
            return
        worst, *others = self.failures
        more = f" (and {len(others)} more)" if others else ""
        raise ExportError(
            f"packaged answers differ from the reference: {worst}{more}. If this error is "
            "acceptable for the model, say so with atol= or rtol=",
            failures=[str(check) for check in self.failures],
        )

    def of_program(self, name: str) -> Verification:
        """Return the manifest's record about one program."""
        checks = [check for check in self.checks if check.program == name]
        runs = {(check.target, check.bucket) for check in checks}
        errors: dict[str, float] = {}
        for check in checks:
            errors[check.output] = max(errors.get(check.output, 0.0), check.max_abs_error)
        return Verification(
            rows=sum(bucket for _, bucket in runs),
            atol=self.tolerances[name].atol,
            rtol=self.tolerances[name].rtol,
            max_abs_error=errors,
            targets_run=self.targets_run,
            run_s={str(b): s for (program, b), s in self.run_s.items() if program == name},
        )
