"""Charts: pure functions from values to inline SVG.

Every mark carries its exact figure as a ``<title>``, which a pointer shows and a screen reader
reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from maas_sdk.charts.svg import Frame, Scale, axes, element, number, picture, text, ticks

__all__ = ["Bar", "Line", "Segment", "bars", "hint", "histogram", "line_chart", "stacked_bars"]

_WIDTH: Final = 560
_HEIGHT: Final = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One curve: a name, its points, and the class that colours it."""

    name: str
    values: tuple[float, ...]
    class_: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A piece of a bar."""

    name: str
    value: float
    class_: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A labelled bar of one or more segments."""

    name: str
    segments: tuple[Segment, ...]

    @property
    def total(self) -> float:
        """Where the bar ends."""
        return sum(segment.value for segment in self.segments)


def hint(content: str) -> str:
    """What a pointer shows over a mark, and a screen reader reads."""
    return element("title", escape(content))


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    y_format: Callable[[float], str],
    y_low: float | None = None,
    y_high: float | None = None,
) -> str:
    """Curves over 1, 2, 3, …; each is named at its last point.

    Args:
        lines: curves of equal length.
        title: what the picture shows, for those who cannot see it.
        x_label: meaning of the horizontal axis.
        y_label: meaning and unit of the vertical axis.
        y_format: a tick's value as text.
        y_low: where the vertical axis starts; the smallest value when None.
        y_high: where it ends; the largest value when None.
    """
    count = max((len(line.values) for line in lines), default=0)
    values = [value for line in lines for value in line.values] or [0.0]
    y_ticks = ticks(
        min(values) if y_low is None else y_low, max(values) if y_high is None else y_high
    )
    frame = Frame(left=56, top=34, right=_WIDTH - 16, bottom=_HEIGHT - 48)
    x = Scale(low=1, high=max(2, count), at_low=frame.left + 8, at_high=frame.right - 8)
    y = Scale(low=y_ticks[0], high=y_ticks[-1], at_low=frame.bottom, at_high=frame.top)
    x_ticks = [v for v in ticks(1, max(2, count), 8) if 1 <= v <= max(2, count) and v == int(v)]
    drawn = [
        axes(
            frame,
            x=x,
            y=y,
            x_ticks=x_ticks,
            y_ticks=y_ticks,
            x_format=lambda value: f"{value:.0f}",
            y_format=y_format,
            x_label=x_label,
            y_label=y_label,
        )
    ]
    for line in lines:
        points = [(x(i), y(value)) for i, value in enumerate(line.values, 1)]
        path = " ".join(f"{number(px)},{number(py)}" for px, py in points)
        drawn.append(element("polyline", points=path, class_=f"line {line.class_}"))
        drawn += [
            element(
                "circle",
                hint(f"{line.name}, {x_label} {i}: {y_format(value)}"),
                cx=px,
                cy=py,
                r=3,
                class_=f"dot {line.class_}",
            )
            for i, (value, (px, py)) in enumerate(zip(line.values, points, strict=True), 1)
        ]
    return picture(*drawn, width=_WIDTH, height=_HEIGHT, title=title)


def histogram(
    values: Sequence[float],
    *,
    title: str,
    x_label: str,
    x_format: Callable[[float], str],
    tick_format: Callable[[float], str],
    marks: Sequence[tuple[str, float]] = (),
    bins: int = 36,
    width: int = 1080,
) -> str:
    """How often which value came; the far tail is gathered in the last bar.

    Args:
        values: at least one.
        title: what the picture shows, for those who cannot see it.
        x_label: meaning of the horizontal axis.
        x_format: a value as text, with its unit.
        tick_format: the same for the round values on the axis.
        marks: named values, such as quantiles, drawn as lines through the bars.
        bins: number of bars.
        width: of the picture, in its own pixels.
    """
    ordered = sorted(values)
    # A single slow call must not squeeze all others into one bar.
    shown_high = max([ordered[int(0.995 * (len(ordered) - 1))], *(value for _, value in marks)])
    x_ticks = ticks(ordered[0], shown_high, 9)
    low, high = x_ticks[0], x_ticks[-1]
    counts = [0] * bins
    for value in ordered:
        counts[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    frame = Frame(left=56, top=48, right=width - 36, bottom=_HEIGHT - 48)
    x = Scale(low=low, high=high, at_low=frame.left, at_high=frame.right)
    y_ticks = [v for v in ticks(0, max(counts)) if v == int(v)]
    y = Scale(low=0, high=y_ticks[-1], at_low=frame.bottom, at_high=frame.top)
    step = (high - low) / bins
    drawn = [
        axes(
            frame,
            x=x,
            y=y,
            x_ticks=x_ticks,
            y_ticks=y_ticks,
            x_format=tick_format,
            y_format=lambda value: f"{value:,.0f}",
            x_label=x_label,
            y_label="calls",
        )
    ]
    for index, found in enumerate(counts):
        if found:
            start, end = low + index * step, low + (index + 1) * step
            beyond = " and beyond" if index == bins - 1 and ordered[-1] > high else ""
            drawn.append(
                element(
                    "rect",
                    hint(f"{x_format(start)} to {x_format(end)}{beyond}: {found:,} calls"),
                    x=x(start) + 1,
                    y=y(found),
                    width=x(end) - x(start) - 2,
                    height=frame.bottom - y(found),
                    rx=2,
                    class_="fill accent",
                )
            )
    for name, value in marks:
        at, level = x(value), frame.top - 20
        near_right = at > frame.right - 150
        drawn += [
            element("line", x1=at, x2=at, y1=level - 8, y2=frame.bottom, class_="mark"),
            text(
                f"{name} {x_format(value)}",
                at + (-6 if near_right else 6),
                level + 2,
                "value",
                "end" if near_right else "start",
            ),
        ]
    return picture(*drawn, width=width, height=_HEIGHT, title=title)


def stacked_bars(
    rows: Sequence[Bar],
    *,
    title: str,
    x_label: str,
    format_: Callable[[float], str],
    tick_format: Callable[[float], str],
    width: int = 1080,
) -> str:
    """Horizontal bars of named pieces; a piece that is wide enough carries its figure."""
    left, bar_height, pitch, top = 8, 44, 84, 34
    longest = max(row.total for row in rows)
    x_ticks = [value for value in ticks(0, longest, 9) if value <= longest]
    bottom = top + pitch * len(rows) - 12
    frame = Frame(left=left, top=top, right=width - 92, bottom=bottom)
    x = Scale(low=0, high=longest, at_low=frame.left, at_high=frame.right)
    drawn = [
        element("line", x1=x(v), x2=x(v), y1=frame.top - 12, y2=bottom, class_="grid")
        + text(tick_format(v) if v else "0", x(v), bottom + 18, "tick", "middle" if v else "start")
        for v in x_ticks
    ]
    drawn.append(text(x_label, (frame.left + frame.right) / 2, bottom + 40, "label", "middle"))
    for index, row in enumerate(rows):
        top_of_bar, at = top + index * pitch + 12, 0.0
        drawn.append(text(row.name, frame.left, top_of_bar - 9, "value"))
        for segment in row.segments:
            start, end = x(at), x(at + segment.value)
            at += segment.value
            wide = end - start
            drawn.append(
                element(
                    "rect",
                    hint(f"{row.name}, {segment.name}: {format_(segment.value)}"),
                    x=start,
                    y=top_of_bar,
                    # A gap, so that neighbours of like colour stay two pieces.
                    width=max(0.6, wide - 2),
                    height=bar_height,
                    rx=min(3.0, max(0.0, wide / 4)),
                    class_=f"fill {segment.class_}",
                )
            )
            if wide > 64:
                middle, base = (start + end - 2) / 2, top_of_bar + bar_height / 2 + 5
                drawn.append(
                    text(format_(segment.value), middle, base, f"on {segment.class_}", "middle")
                )
        drawn.append(text(format_(row.total), x(at) + 8, top_of_bar + bar_height / 2 + 5, "total"))
    return picture(*drawn, width=width, height=bottom + 52, title=title)


def bars(
    rows: Sequence[Bar], *, title: str, format_: Callable[[float], str], width: int = 560
) -> str:
    """Horizontal bars of one figure each, on one scale that starts at zero."""
    bar_height, pitch = 30, 70
    x = Scale(low=0, high=max(row.total for row in rows), at_low=0, at_high=width - 150)
    drawn = []
    for index, row in enumerate(rows):
        top = index * pitch + 28
        drawn += [
            text(row.name, 0, top - 9, "label"),
            element(
                "rect",
                hint(f"{row.name}: {format_(row.total)}"),
                x=0,
                y=top,
                width=max(2.0, x(row.total)),
                height=bar_height,
                rx=3,
                class_=f"fill {row.segments[0].class_}",
            ),
            text(format_(row.total), max(2.0, x(row.total)) + 10, top + 21, "total"),
        ]
    return picture(*drawn, width=width, height=pitch * len(rows), title=title)
