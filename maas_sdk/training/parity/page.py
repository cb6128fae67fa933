"""HTML report of a comparison of precisions: verdicts, curves and gaps.

The rule it keeps: the page draws what the result holds and computes nothing that the verdict hangs
on; a curve of many steps is drawn as means over equal windows, and says so.
"""

from __future__ import annotations

import math
from html import escape
from typing import Final

from maas_sdk.charts.curves import Curve as Drawn
from maas_sdk.charts.curves import curve_chart
from maas_sdk.charts.page import card, document, legend, section, table
from maas_sdk.training.parity.result import HEADS, LossCurve, ParityResult, ParityVerdict

__all__ = ["comparison_page"]

# Points that a picture of this width can show apart.
_POINTS: Final = 120


def comparison_page(result: ParityResult) -> str:
    """Return the whole page, with pictures in it; it needs no other file."""
    reference = result.curves[0]
    by_name = {curve.name: curve for curve in result.curves}
    names = ", ".join(curve.name for curve in result.curves[1:])
    met = sum(verdict.passed for verdict in result.verdicts)
    said = (
        f'<span class="verdict good">✓ within the bar: {escape(names)}</span>'
        if result.passed
        else f'<span class="verdict bad">✕ {len(result.verdicts) - met} of '
        f"{len(result.verdicts)} beyond the bar</span>"
    )
    body = (
        '<header><p class="mark-name">maas parity</p>'
        f"<h1>{escape(names)} beside {escape(reference.name)}</h1>"
        f'<p class="lead">The same model, weights, rows and order, {len(reference.losses)} steps '
        f"under each policy.</p>{said}</header>"
        + section(
            "Verdict",
            "The gap is the mean of |loss - reference's loss| over the last tenth of the steps, "
            "in the unit of the loss. The final loss is the mean over the same steps.",
            card(table(HEADS, result.rows())),
            *(
                card(f"<h3>{escape(curve.name)}</h3><p>{escape(curve.broke)}</p>")
                for curve in result.curves
                if curve.broke
            ),
        )
        + "".join(
            _pictures(reference, by_name[verdict.candidate], verdict) for verdict in result.verdicts
        )
    )
    return document(f"{names} beside {reference.name}: parity", body)


def _pictures(reference: LossCurve, candidate: LossCurve, verdict: ParityVerdict) -> str:
    window = max(1, math.ceil(len(reference.losses) / _POINTS))
    drawn = "each step" if window == 1 else f"means over {window} steps"
    between = tuple(abs(a - b) for a, b in zip(reference.losses, candidate.losses, strict=False))
    gap = "the run broke" if candidate.broke else f"gap {verdict.gap:.4g}, bar {verdict.bar:g}"
    return section(
        f"{candidate.name}: {gap}",
        f"Loss by step, {drawn}; below it the distance of the two, the bar dashed.",
        card(
            legend([(reference.name, "accent-key"), (candidate.name, "second-key")]),
            curve_chart(
                [
                    Drawn(name=reference.name, points=_windows(reference.losses, window)),
                    Drawn(
                        name=candidate.name,
                        points=_windows(candidate.losses, window),
                        class_="second",
                    ),
                ],
                title=f"Training loss of {reference.name} and {candidate.name} by step",
                x_label="step",
                y_label="loss",
                x_format=_whole,
                y_format=_short,
                y_low=0 if min(reference.losses) >= 0 else None,
                width=1080,
            ),
            curve_chart(
                [
                    Drawn(name="distance", points=_windows(between, window)),
                    Drawn(
                        name="bar",
                        points=((1.0, verdict.bar), (float(len(reference.losses)), verdict.bar)),
                        class_="mark",
                    ),
                ],
                title=f"Distance of the losses of {reference.name} and {candidate.name} by step",
                x_label="step",
                y_label="|difference|",
                x_format=_whole,
                y_format=_short,
                y_low=0,
                width=1080,
            ),
        ),
    )


def _windows(values: tuple[float, ...], window: int) -> tuple[tuple[float, float], ...]:
    """Return (middle step, mean) of each window of steps."""
    return tuple(
        (start + (len(part) + 1) / 2, sum(part) / len(part))
        for start in range(0, len(values), window)
        if (part := values[start : start + window])
    )


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _short(value: float) -> str:
    return f"{value:.3g}"
