"""Squares that are shaded by a number: a confusion matrix, a small grey image."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from maas_sdk.charts.svg import element, number, picture, rect, text

__all__ = ["heat_map", "pixels"]

# A name that is longer is cut; its whole is what the pointer shows.
_MAX_NAME: Final = 9


def heat_map(
    counts: Sequence[Sequence[int]], *, title: str, kind: str, names: Sequence[str] = ()
) -> str:
    """Draw a confusion matrix [C][C]: rows are true classes, columns predicted ones.

    Right answers are shaded in one colour by their share of the row, wrong ones stand out in
    another; empty cells stay empty.

    Args:
        counts: how many rows of each true class were called what.
        title: what the picture shows, for those who cannot see it.
        kind: what a class is: "digit", "class".
        names: of the classes; empty numbers them.
    """
    called = [names[i] if names else str(i) for i in range(len(counts))]
    short = [name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…" for name in called]
    classes, cell, top = len(counts), 44, 56
    # About seven pixels for a letter: text cannot be measured without a browser.
    left = 48 + 7 * max(len(name) for name in short) + 7
    side = classes * cell
    drawn = [
        text(f"predicted {kind}", left + side / 2, 16, "label", "middle"),
        element(
            "text",
            f"true {escape(kind)}",
            transform=f"translate(16 {number(top + side / 2)}) rotate(-90)",
            class_="label",
            text_anchor="middle",
        ),
    ]
    for i, name in enumerate(short):
        middle = i * cell + cell / 2
        # Neighbours of long names would run into one another; every other one stands higher.
        above = 12 + 14 * (i % 2 if max(map(len, short)) > 5 else 0)
        drawn += [
            text(name, left + middle, top - above, "tick", "middle"),
            text(name, left - 14, top + middle + 5, "tick", "end" if names else "middle"),
        ]
        # A class that no row has is drawn empty instead of divided by zero.
        row_total = max(1, sum(counts[i]))
        for j, found in enumerate(counts[i]):
            share = found / row_total
            right = i == j
            # Even one wrong answer must be seen, hence the floor.
            shade = (0.12 + 0.88 * share**2 if right else 0.35 + 0.65 * share) if found else 0.0
            class_ = ("fill accent" if right else "fill wrong") if found else "fill empty"
            said = f"true {called[i]}, predicted {called[j]}: {found:,}"
            at = (left + j * cell + 1.5, top + i * cell + 1.5, cell - 3, cell - 3)
            opacity = shade if found else None
            drawn.append(rect(*at, hint=said, rx=4, opacity=opacity, class_=class_))
            if found:
                at_x, at_y = left + j * cell + cell / 2, top + i * cell + cell / 2 + 5
                # On a dark square the figure has to be light.
                class_ = "on accent" if right and shade > 0.55 else "value"
                drawn.append(text(f"{found:,}", at_x, at_y, class_, "middle"))
    return picture(*drawn, width=left + side + 8, height=top + side + 8, title=title)


def pixels(image: Sequence[Sequence[float]], *, title: str) -> str:
    """Draw a small grey image [H][W] from 0 (paper) to 1 (ink), as crisp squares."""
    squares = [
        # A hair more than one, or seams show between neighbours.
        rect(x, y, 1.02, 1.02, opacity=float(ink))
        for y, row in enumerate(image)
        for x, ink in enumerate(row)
        # Paper that is not quite white needs no square: the picture stays small.
        if ink > 0.02
    ]
    return picture(*squares, width=len(image[0]), height=len(image), title=title, class_="pixels")
