"""SVG elements as escaped text, scales from values to pixels, and axes.

Colours are never written here: elements carry classes, and the page's style sheet gives them
their colours in light and in dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Final

__all__ = [
    "Frame",
    "Scale",
    "axes",
    "element",
    "line",
    "number",
    "picture",
    "rect",
    "text",
    "ticks",
]

# Pixels between an axis and the words beside it.
_GAP: Final = 8


def number(value: float) -> str:
    """Format a coordinate with at most two digits after the point, finer than any screen."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def element(name: str, *children: str, **attributes: str | float | None) -> str:
    """Return one element. Underscores in attribute names become hyphens, a trailing one goes.

    Children are markup and kept as they are; attribute values are escaped.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="'
        f'{escape(value) if isinstance(value, str) else number(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(children)
    return f"<{name}{written}>{inside}</{name}>" if inside else f"<{name}{written}/>"


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """Draw a straight line between two points."""
    return element("line", x1=x1, x2=x2, y1=y1, y2=y2, class_=class_)


def rect(
    x: float,
    y: float,
    width: float,
    height: float,
    *,
    class_: str | None = None,
    hint: str | None = None,
    rx: float | None = None,
    opacity: float | None = None,
) -> str:
    """Draw a rectangle; ``hint`` is shown under a pointer, and ``rx`` rounds its corners."""
    said = () if hint is None else (element("title", escape(hint)),)
    size = {"x": x, "y": y, "width": width, "height": height}
    return element("rect", *said, **size, rx=rx, fill_opacity=opacity, class_=class_)


def text(content: str, x: float, y: float, class_: str = "label", anchor: str = "start") -> str:
    """Draw words at a point; ``anchor`` is start, middle or end."""
    return element("text", escape(content), x=x, y=y, class_=class_, text_anchor=anchor)


def picture(*children: str, width: float, height: float, title: str, class_: str = "chart") -> str:
    """Return a picture that scales with its column; ``title`` is for screen readers."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
        aria_label=title,
        class_=class_,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """A linear scale from values to pixels; either end may be the larger one."""

    low: float
    high: float
    at_low: float
    at_high: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        # One value alone has no range: it is drawn at the low end.
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.at_low + share * (self.at_high - self.at_low)


def ticks(low: float, high: float, wanted: int = 5) -> tuple[float, ...]:
    """Return about ``wanted`` round values that cover [low, high] to just beyond its ends.

    Steps are 1, 2 or 5 times a power of ten.
    """
    if not high > low:
        # One value alone: an axis as long as the value itself.
        high = low + (abs(low) or 1.0)
    rough = (high - low) / max(1, wanted - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    # A thousandth of leeway: 0.1 and its like are not exact, and the next step would be twice as
    # wide.
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= 0.999 * rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    # round() takes away what 3 * 0.1 carries behind its last digit.
    digits = max(0, -math.floor(math.log10(step)))
    return tuple(round(index * step, digits) for index in range(first, last + 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """The rectangle, in pixels, that the data is drawn in."""

    left: float
    top: float
    right: float
    bottom: float


def axes(
    frame: Frame,
    x: Scale,
    y: Scale,
    *,
    x_ticks: Mapping[float, str],
    y_ticks: Mapping[float, str],
    x_label: str,
    y_label: str,
) -> str:
    """Draw grid lines, base line, ticks (value → words) and the titles of both axes."""
    left, right, bottom = frame.left, frame.right, frame.bottom
    drawn = [line(left, y(v), right, y(v), "grid") for v in y_ticks]
    drawn += [text(words, left - _GAP, y(v) + 4, "tick", "end") for v, words in y_ticks.items()]
    drawn.append(line(left, bottom, right, bottom, "axis"))
    for value, words in x_ticks.items():
        drawn.append(line(x(value), bottom, x(value), bottom + 4, "axis"))
        drawn.append(text(words, x(value), bottom + 18, "tick", "middle"))
    drawn.append(text(x_label, (left + right) / 2, bottom + 38, "label", "middle"))
    # Above the axis and level, so that nobody has to turn their head.
    drawn.append(text(y_label, left - _GAP, frame.top - 12, "label", "start"))
    return "".join(drawn)
