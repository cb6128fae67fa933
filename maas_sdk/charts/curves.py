"""Curves and clouds of points over a measured horizontal axis, straight or logarithmic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Final, NamedTuple

from maas_sdk.charts.svg import Frame, Scale, axes, element, line, number, picture, ticks
from maas_sdk.errors import ConfigError

__all__ = ["Curve", "curve_chart"]

_WIDTH: Final = 560
_HEIGHT: Final = 300
# Points whose single dots would be a band.
_MANY: Final = 60


class Curve(NamedTuple):
    """One curve: a name, its points (x, y), and the class that colours it."""

    name: str
    points: Sequence[tuple[float, float]]
    class_: str = "accent"


def curve_chart(
    curves: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_format: Callable[[float], str],
    y_format: Callable[[float], str],
    x_log2: bool = False,
    y_low: float | None = None,
    y_high: float | None = None,
    width: int = _WIDTH,
    joined: bool = True,
) -> str:
    """Draw curves, their points joined in the order given.

    Args:
        curves: what to draw; points that are not finite leave a gap.
        title: what the picture shows, for those who cannot see it.
        x_label: meaning and unit of the horizontal axis.
        y_label: meaning and unit of the vertical axis.
        x_format: a tick of the horizontal axis as text.
        y_format: a value of the vertical axis as text.
        x_log2: a horizontal axis whose ticks double.
        y_low: where the vertical axis starts; the smallest value when None.
        y_high: where it ends; the largest value when None.
        width: of the picture, in its own pixels.
        joined: draw the curves; False draws the points, and the dashed line where y = x.

    Raises:
        ConfigError: an x that is not positive on a logarithmic axis.
    """
    parts = [(n, part, c) for n, points, c in curves for part in _finite_parts(points)]
    # Axes are drawn even where no point is finite; x = 1 has a logarithm.
    points = [point for _, part, _ in parts for point in part] or [(1.0, 0.0)]
    low, high, below = _horizontal([x for x, _ in points], x_format, x_log2)
    ys = [y for _, y in points]
    beside = ticks(min(ys) if y_low is None else y_low, max(ys) if y_high is None else y_high)
    frame = Frame(left=56, top=34, right=width - 16, bottom=_HEIGHT - 48)
    x = Scale(low=low, high=high, at_low=frame.left + 8, at_high=frame.right - 8)
    y = Scale(low=beside[0], high=beside[-1], at_low=frame.bottom, at_high=frame.top)
    drawn = [
        axes(
            frame,
            x,
            y,
            x_ticks=below,
            y_ticks={v: y_format(v) for v in beside},
            x_label=x_label,
            y_label=y_label,
        )
    ]
    least, most = max(low, beside[0]), min(high, beside[-1])
    if not joined and most > least:
        drawn.append(line(x(least), y(least), x(most), y(most), "mark"))
    for name, part, class_ in parts:
        placed = [(x(math.log2(px) if x_log2 else px), y(py)) for px, py in part]
        if joined:
            path = " ".join(f"{number(px)},{number(py)}" for px, py in placed)
            drawn.append(element("polyline", points=path, class_=f"line {class_}"))
        # The line alone shows so many.
        if joined and len(part) > _MANY:
            continue
        for (px, py), (cx, cy) in zip(part, placed, strict=True):
            said = element("title", escape(f"{name}, {x_label} {x_format(px)}: {y_format(py)}"))
            r = 3 if joined else 2.5
            drawn.append(element("circle", said, cx=cx, cy=cy, r=r, class_=f"dot {class_}"))
    return picture(*drawn, width=width, height=_HEIGHT, title=title)


def _horizontal(
    xs: Sequence[float], format_: Callable[[float], str], log2: bool
) -> tuple[float, float, dict[float, str]]:
    """Return ends and ticks of the horizontal axis; of a logarithmic one as powers of two."""
    if log2:
        if min(xs) <= 0:
            raise ConfigError("a logarithmic axis needs x above 0")
        first, last = math.floor(math.log2(min(xs))), math.ceil(math.log2(max(xs)))
        # A lone power of two would give an axis without length.
        last = max(last, first + 1)
        # Eight labels or so fit side by side.
        powers = range(first, last + 1, max(1, round((last - first) / 8)))
        return first, last, {power: format_(2.0**power) for power in powers}
    low, high = min(xs), max(xs)
    high = high if high > low else low + 1
    # Between two epochs there is nothing to point at.
    whole = all(float(x).is_integer() for x in xs)
    shown = [v for v in ticks(low, high, 8) if low <= v <= high]
    return low, high, {v: format_(v) for v in shown if not whole or v == int(v)}


def _finite_parts(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Return runs of points without NaN or infinity."""
    parts: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            parts[-1].append((x, y))
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]
