"""Bars and histograms: pure functions from values to inline SVG.

Every mark carries its exact figure as a ``<title>``, which a pointer shows and a screen reader
reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from maas_sdk.charts.svg import Frame, Scale, axes, line, picture, rect, text, ticks

__all__ = ["Bar", "Segment", "bars", "histogram", "stacked_bars"]


class Segment(NamedTuple):
    """A piece of a bar."""

    name: str
    value: float
    class_: str


class Bar(NamedTuple):
    """A labelled bar of one or more segments."""

    name: str
    segments: Sequence[Segment]

    @property
    def total(self) -> float:
        """End of the bar."""
        return sum(value for _, value, _ in self.segments)


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
    """Draw a histogram; the far tail is gathered in the last bar.

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
    ordered, height = sorted(values), 300
    # A single slow call must not squeeze all others into one bar.
    shown_high = max([ordered[int(0.995 * (len(ordered) - 1))], *(value for _, value in marks)])
    x_ticks = ticks(ordered[0], shown_high, 9)
    low, high = x_ticks[0], x_ticks[-1]
    counts = [0] * bins
    for value in ordered:
        counts[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    frame = Frame(left=56, top=48, right=width - 36, bottom=height - 48)
    x = Scale(low=low, high=high, at_low=frame.left, at_high=frame.right)
    # Nobody counts half a call.
    y_ticks = [v for v in ticks(0, max(counts)) if v == int(v)]
    y = Scale(low=0, high=y_ticks[-1], at_low=frame.bottom, at_high=frame.top)
    step = (high - low) / bins
    drawn = [
        axes(
            frame,
            x,
            y,
            x_ticks={v: tick_format(v) for v in x_ticks},
            y_ticks={v: f"{v:,.0f}" for v in y_ticks},
            x_label=x_label,
            y_label="calls",
        )
    ]
    for index, found in enumerate(counts):
        start, end = low + index * step, low + (index + 1) * step
        beyond = " and beyond" if index == bins - 1 and ordered[-1] > high else ""
        said = f"{x_format(start)} to {x_format(end)}{beyond}: {found:,} calls"
        wide, tall = x(end) - x(start) - 2, frame.bottom - y(found)
        if found:
            drawn.append(
                rect(x(start) + 1, y(found), wide, tall, hint=said, rx=2, class_="fill accent")
            )
    for name, value in marks:
        at, level = x(value), frame.top - 20
        # Near the right edge the words would be cut off: there they stand left of their line.
        beside, anchor = (-6, "end") if at > frame.right - 150 else (6, "start")
        drawn.append(line(at, level - 8, at, frame.bottom, "mark"))
        drawn.append(text(f"{name} {x_format(value)}", at + beside, level + 2, "value", anchor))
    return picture(*drawn, width=width, height=height, title=title)


def stacked_bars(
    rows: Sequence[Bar],
    *,
    title: str,
    x_label: str,
    format_: Callable[[float], str],
    tick_format: Callable[[float], str],
    width: int = 1080,
) -> str:
    """Draw horizontal bars of named pieces; a wide enough piece carries its figure."""
    left, right, bar_height, pitch, top = 8, width - 92, 44, 84, 34
    longest = max(row.total for row in rows)
    bottom = top + pitch * len(rows) - 12
    x = Scale(low=0, high=longest, at_low=left, at_high=right)
    drawn = [
        line(x(v), top - 12, x(v), bottom, "grid")
        + text(tick_format(v) if v else "0", x(v), bottom + 18, "tick", "middle" if v else "start")
        # The ticks cover a little more than the longest bar, which ends the drawing here.
        for v in ticks(0, longest, 9)
        if v <= longest
    ]
    drawn.append(text(x_label, (left + right) / 2, bottom + 40, "label", "middle"))
    for index, row in enumerate(rows):
        top_of_bar, at = top + index * pitch + 12, 0.0
        base = top_of_bar + bar_height / 2 + 5
        drawn.append(text(row.name, left, top_of_bar - 9, "value"))
        for name, value, class_ in row.segments:
            start, end = x(at), x(at + value)
            at += value
            wide = end - start
            said = f"{row.name}, {name}: {format_(value)}"
            rx = min(3.0, max(0.0, wide / 4))
            # A gap, so that neighbours of like colour stay two pieces.
            size = (start, top_of_bar, max(0.6, wide - 2), bar_height)
            drawn.append(rect(*size, hint=said, rx=rx, class_=f"fill {class_}"))
            # A figure needs so many pixels.
            if wide > 64:
                middle = (start + end - 2) / 2
                drawn.append(text(format_(value), middle, base, f"on {class_}", "middle"))
        drawn.append(text(format_(row.total), x(at) + 8, base, "total"))
    return picture(*drawn, width=width, height=bottom + 52, title=title)


def bars(
    rows: Sequence[Bar], *, title: str, format_: Callable[[float], str], width: int = 560
) -> str:
    """Draw horizontal bars of one figure each, on one scale that starts at zero."""
    bar_height, pitch = 30, 70
    x = Scale(low=0, high=max(row.total for row in rows), at_low=0, at_high=width - 150)
    drawn = []
    for index, row in enumerate(rows):
        # Two pixels at least: a bar that is near zero must still be seen.
        top, long, shown = index * pitch + 28, max(2.0, x(row.total)), format_(row.total)
        class_, said = f"fill {row.segments[0].class_}", f"{row.name}: {shown}"
        drawn.append(text(row.name, 0, top - 9, "label"))
        drawn.append(rect(0, top, long, bar_height, hint=said, rx=3, class_=class_))
        drawn.append(text(shown, long + 10, top + 21, "total"))
    return picture(*drawn, width=width, height=pitch * len(rows), title=title)
