"""Result of a comparison of precisions: a loss curve per policy, and a verdict on each.

The rule it keeps: a verdict is a gap and the bar that it is compared with; table, JSON and page
show the same figures. The gap is defined in ``training.parity.comparison``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from maas_sdk.charts.columns import columns
from maas_sdk.errors import ConfigError
from maas_sdk.training.precision import Policy

__all__ = ["HEADS", "TAIL", "LossCurve", "ParityResult", "ParityVerdict", "gap_between"]

# Share of the steps, at the end, that a gap is taken over.
TAIL: Final = 0.1

# Columns of the table of verdicts.
HEADS: Final = ("policy", "final loss", "held-out loss", "held-out right", "gap", "bar", "verdict")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossCurve:
    """Losses of one policy's run."""

    # As it was named, such as "bf16".
    name: str
    policy: Policy
    # Mean training loss of each step, before its update; shorter where the run broke.
    losses: tuple[float, ...]
    # By name, on the held-out rows after the last step; empty without any.
    eval: Mapping[str, float] = field(default_factory=dict)
    # Why the run ended before its last step; empty if it did not.
    broke: str = ""

    @property
    def final(self) -> float:
        """Mean loss over the last tenth of the steps; NaN where the run broke."""
        return math.nan if self.broke else float(np.mean(self.losses[-_tail(len(self.losses)) :]))


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityVerdict:
    """One policy compared with the reference."""

    reference: str
    candidate: str
    # As the module says; infinite where the candidate's run broke.
    gap: float
    bar: float
    # Difference of the final losses, candidate's less reference's.
    difference: float

    @property
    def passed(self) -> bool:
        """True when the gap is within the bar."""
        return self.gap <= self.bar


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityResult:
    """Curves of all policies, the reference's first, and a verdict on each of the others."""

    curves: tuple[LossCurve, ...]
    verdicts: tuple[ParityVerdict, ...]
    # The reference from disturbed weights; None where none was asked for.
    control: LossCurve | None = None

    @property
    def noise(self) -> float | None:
        """The control's gap, which is the run's own sensitivity; None without a control."""
        return None if self.control is None else gap_between(self.curves[0], self.control)

    @property
    def worst(self) -> ParityVerdict:
        """The verdict that is nearest to its bar, or furthest beyond."""
        return max(self.verdicts, key=lambda verdict: verdict.gap / verdict.bar)

    @property
    def gap(self) -> float:
        """Gap of the worst verdict."""
        return self.worst.gap

    @property
    def bar(self) -> float:
        """Bar of the worst verdict."""
        return self.worst.bar

    @property
    def passed(self) -> bool:
        """True when every policy is within its bar."""
        return all(verdict.passed for verdict in self.verdicts)

    def rows(self) -> list[tuple[str, ...]]:
        """Return a row per policy: name, final loss, held-out figures, gap, bar, verdict."""
        by_name = {verdict.candidate: verdict for verdict in self.verdicts}
        rows = [_row(curve, by_name.get(curve.name)) for curve in self.curves]
        if self.control is None:
            return rows
        *figures, _, _, _ = _row(self.control, None)
        return [*rows, (*figures, f"{self.noise:.4f}", "–", "control")]

    def table(self) -> str:
        """Return the result for a terminal."""
        broken = [f"{curve.name}: {curve.broke}" for curve in self.curves if curve.broke]
        return "\n".join([*columns([HEADS, *self.rows()]), *broken])

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-ready values; non-finite values are None."""
        return {
            "passed": self.passed,
            "gap": _finite(self.gap),
            "bar": self.bar,
            "noise": None if self.noise is None else _finite(self.noise),
            "verdicts": [
                {
                    "reference": verdict.reference,
                    "candidate": verdict.candidate,
                    "gap": _finite(verdict.gap),
                    "bar": verdict.bar,
                    "difference": _finite(verdict.difference),
                    "passed": verdict.passed,
                }
                for verdict in self.verdicts
            ],
            "curves": [
                {
                    "name": curve.name,
                    "policy": str(curve.policy),
                    "final": _finite(curve.final),
                    "eval": dict(curve.eval),
                    "broke": curve.broke,
                    "losses": [_finite(loss) for loss in curve.losses],
                }
                for curve in self.curves
            ],
        }


def gap_between(reference: LossCurve, candidate: LossCurve) -> float:
    """Return the mean gap of losses over the last tenth of steps; infinite for a broken run.

    Raises:
        ConfigError: the curves have different numbers of steps.
    """
    if candidate.broke:
        return math.inf
    if len(candidate.losses) != len(reference.losses):
        raise ConfigError(
            f"parity: {candidate.name!r} took {len(candidate.losses)} steps that count and "
            f"{reference.name!r} {len(reference.losses)}: expected as many. Data must give the "
            "same batches to every run, and no step may be skipped (skip_nonfinite=0)"
        )
    tail = _tail(len(reference.losses))
    first, second = np.array(reference.losses[-tail:]), np.array(candidate.losses[-tail:])
    # NaN, which meets no bar, is as far away as can be.
    return float(np.nan_to_num(np.abs(first - second).mean(), nan=math.inf, posinf=math.inf))


def _row(curve: LossCurve, verdict: ParityVerdict | None) -> tuple[str, ...]:
    held_out = (
        f"{curve.eval['loss']:.4f}" if "loss" in curve.eval else "–",
        f"{100 * curve.eval['accuracy']:.2f} %" if "accuracy" in curve.eval else "–",
    )
    final = "broke" if curve.broke else f"{curve.final:.4f}"
    if verdict is None:
        return (curve.name, final, *held_out, "–", "–", "reference")
    passed = "within" if verdict.passed else "beyond"
    return (curve.name, final, *held_out, f"{verdict.gap:.4f}", f"{verdict.bar:g}", passed)


def _tail(steps: int) -> int:
    return max(1, math.ceil(TAIL * steps))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
