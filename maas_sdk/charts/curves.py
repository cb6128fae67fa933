"""Curves over a measured horizontal axis: what two lists of numbers per curve look like.

``plots.line_chart`` draws values over 1, 2, 3, …; here each point has an x of its own, on a
straight or a logarithmic axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from maas_sdk.charts.plots import hint
from maas_sdk.charts.svg import Frame, Scale, axes, element, number, picture, ticks
from maas_sdk.errors import ConfigError

__all__ = ["Curve", "curve_chart", "scatter_chart"]

_WIDTH: Final = 560
_HEIGHT: Final = 300
# Points whose single dots would be a band.
_MANY: Final = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One curve: a name, its points (x, y), and the class that colours it."""

    name: str
    points: tuple[tuple[float, float], ...]
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
) -> str:
    """Curves, their points joined in the order given.

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

    Raises:
        ConfigError: an x that is not positive on a logarithmic axis.
    """
    field = _Field(curves, x_format, y_format, x_log2, y_low, y_high, width)
    drawn = [field.axes(x_label, y_label)]
    for curve in curves:
        for part in _finite_parts(curve.points):
            placed = [field.place(point) for point in part]
            path = " ".join(f"{number(px)},{number(py)}" for px, py in placed)
            drawn.append(element("polyline", points=path, class_=f"line {curve.class_}"))
            if len(part) <= _MANY:
                drawn += [field.dot(curve, point, r=3) for point in part]
    return picture(*drawn, width=width, height=_HEIGHT, title=title)


def scatter_chart(
    curves: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_format: Callable[[float], str],
    y_format: Callable[[float], str],
    width: int = _WIDTH,
) -> str:
    """Points that nothing joins, but the dashed line where y = x. Arguments as ``curve_chart``."""
    field = _Field(curves, x_format, y_format, False, None, None, width)
    low, high = max(field.x.low, field.y.low), min(field.x.high, field.y.high)
    (x1, y1), (x2, y2) = field.place((low, low)), field.place((high, high))
    drawn = [field.axes(x_label, y_label)]
    if high > low:
        drawn.append(element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="mark"))
    for curve in curves:
        drawn += [field.dot(curve, p, r=2.5) for part in _finite_parts(curve.points) for p in part]
    return picture(*drawn, width=width, height=_HEIGHT, title=title)


class _Field:
    """Scales and axes that all the curves fit in."""

    def __init__(
        self,
        curves: Sequence[Curve],
        x_format: Callable[[float], str],
        y_format: Callable[[float], str],
        x_log2: bool,
        y_low: float | None,
        y_high: float | None,
        width: int,
    ) -> None:
        points = [p for curve in curves for part in _finite_parts(curve.points) for p in part]
        points = points or [(1.0, 0.0)]
        if x_log2 and min(x for x, _ in points) <= 0:
            raise ConfigError("a logarithmic axis needs x above 0")
        self._log2, self._x_format, self._y_format = x_log2, x_format, y_format
        xs = [self._bent(x) for x, _ in points]
        ys = [y for _, y in points]
        self._y_ticks = ticks(
            min(ys) if y_low is None else y_low, max(ys) if y_high is None else y_high
        )
        if x_log2:
            first, last = math.floor(min(xs)), max(math.ceil(max(xs)), math.floor(min(xs)) + 1)
            step = max(1, round((last - first) / 8))
            self._x_ticks = tuple(2.0**power for power in range(first, last + 1, step))
            low, high = float(first), float(last)
        else:
            self._x_ticks = ticks(min(xs), max(xs), 7)
            low, high = self._x_ticks[0], self._x_ticks[-1]
        self._frame = Frame(left=64, top=34, right=width - 24, bottom=_HEIGHT - 48)
        self.x = Scale(low=low, high=high, at_low=self._frame.left, at_high=self._frame.right)
        self.y = Scale(
            low=self._y_ticks[0],
            high=self._y_ticks[-1],
            at_low=self._frame.bottom,
            at_high=self._frame.top,
        )

    def _bent(self, x: float) -> float:
        return math.log2(x) if self._log2 else x

    def _at(self, x: float) -> float:
        return self.x(self._bent(x))

    def place(self, point: tuple[float, float]) -> tuple[float, float]:
        return self._at(point[0]), self.y(point[1])

    def dot(self, curve: Curve, point: tuple[float, float], *, r: float) -> str:
        px, py = self.place(point)
        words = f"{curve.name}, {self._x_format(point[0])}: {self._y_format(point[1])}"
        return element("circle", hint(words), cx=px, cy=py, r=r, class_=f"dot {curve.class_}")

    def axes(self, x_label: str, y_label: str) -> str:
        # ``axes`` asks the scale for pixels of ticks; on a bent axis that is not its own value.
        below = {self._bent(x): self._x_format(x) for x in self._x_ticks}
        return axes(
            self._frame,
            x=self.x,
            y=self.y,
            x_ticks=tuple(below),
            y_ticks=self._y_ticks,
            x_format=below.__getitem__,
            y_format=self._y_format,
            x_label=x_label,
            y_label=y_label,
        )


def _finite_parts(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Runs of points without NaN or infinity."""
    parts: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            parts[-1].append((x, y))
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]
