"""HTML report of a comparison of precisions: verdicts, curves and gaps.

The page, whose words are in ``page.html``, draws what the result holds and computes nothing that
the verdict hangs on; a curve of many steps is drawn as means over equal windows, and says so.
"""

from __future__ import annotations

import math
from typing import Any, Final

from maas_sdk.charts.curves import Curve
from maas_sdk.reports.page import fill
from maas_sdk.training.parity.result import HEADS, LossCurve, ParityResult, ParityVerdict

__all__ = ["comparison_page"]

# Points that a picture of this width can show apart.
_POINTS: Final = 120


def comparison_page(result: ParityResult) -> str:
    """Return the whole page, with pictures in it; it needs no other file."""
    reference = result.curves[0]
    by_name = {curve.name: curve for curve in result.curves}
    window = max(1, math.ceil(len(reference.losses) / _POINTS))
    return fill(
        "training/parity/page.html",
        result=result,
        heads=HEADS,
        reference=reference,
        names=", ".join(curve.name for curve in result.curves[1:]),
        window=window,
        pairs=[_pair(reference, by_name[one.candidate], one, window) for one in result.verdicts],
    )


def _pair(
    reference: LossCurve, candidate: LossCurve, verdict: ParityVerdict, window: int
) -> dict[str, Any]:
    between = tuple(abs(a - b) for a, b in zip(reference.losses, candidate.losses, strict=False))
    bar = ((1.0, verdict.bar), (float(len(reference.losses)), verdict.bar))
    return {
        "candidate": candidate,
        "verdict": verdict,
        "losses": [
            Curve(reference.name, _windows(reference.losses, window)),
            Curve(candidate.name, _windows(candidate.losses, window), "second"),
        ],
        "distance": [Curve("distance", _windows(between, window)), Curve("bar", bar, "mark")],
    }


def _windows(values: tuple[float, ...], window: int) -> list[tuple[float, float]]:
    """Return (middle step, mean) of each window of steps."""
    return [
        (start + (len(part) + 1) / 2, sum(part) / len(part))
        for start in range(0, len(values), window)
        if (part := values[start : start + window])
    ]
