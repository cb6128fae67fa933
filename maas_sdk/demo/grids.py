"""The report's pictures that are made of cells: a confusion matrix, and small grey images.

Dimension letters: C classes, H and W height and width of an image.
"""

from __future__ import annotations

from maas_sdk.charts.plots import hint
from maas_sdk.charts.svg import element, number, picture, text
from maas_sdk.tensors import Array

__all__ = ["heat_map", "pixels"]


def heat_map(counts: Array, *, title: str) -> str:
    """A confusion matrix [C, C]: rows are true classes, columns predicted ones.

    Right answers are shaded in one colour by their share of the row, wrong ones stand out in
    another; empty cells stay empty.
    """
    classes, cell, left, top = len(counts), 44, 62, 56
    side = classes * cell
    drawn = [
        text("predicted digit", left + side / 2, 16, "label", "middle"),
        element(
            "text",
            "true digit",
            transform=f"translate(16 {number(top + side / 2)}) rotate(-90)",
            class_="label",
            text_anchor="middle",
        ),
    ]
    for i in range(classes):
        middle = i * cell + cell / 2
        drawn += [
            text(str(i), left + middle, top - 12, "tick", "middle"),
            text(str(i), left - 14, top + middle + 5, "tick", "middle"),
        ]
        row_total = max(1, int(counts[i].sum()))
        for j in range(classes):
            found = int(counts[i, j])
            share = found / row_total
            right = i == j
            # Even one wrong answer must be seen, hence the floor.
            shade = (0.12 + 0.88 * share**2 if right else 0.35 + 0.65 * share) if found else 0.0
            drawn.append(
                element(
                    "rect",
                    hint(f"true {i}, predicted {j}: {found:,}"),
                    x=left + j * cell + 1.5,
                    y=top + i * cell + 1.5,
                    width=cell - 3,
                    height=cell - 3,
                    rx=4,
                    fill_opacity=shade if found else None,
                    class_=f"fill {('accent' if right else 'wrong') if found else 'empty'}",
                )
            )
            if found:
                drawn.append(
                    text(
                        f"{found:,}",
                        left + j * cell + cell / 2,
                        top + i * cell + cell / 2 + 5,
                        "on accent" if right and shade > 0.55 else "value",
                        "middle",
                    )
                )
    return picture(*drawn, width=left + side + 8, height=top + side + 8, title=title)


def pixels(image: Array, *, title: str) -> str:
    """A small grey image, [H, W] from 0 (paper) to 1 (ink), as crisp squares."""
    height, width = image.shape
    squares = [
        element(
            "rect",
            x=x,
            y=y,
            # A hair more than one, or seams show between neighbours.
            width=1.02,
            height=1.02,
            fill_opacity=float(image[y, x]),
        )
        for y in range(height)
        for x in range(width)
        if image[y, x] > 0.02
    ]
    return picture(*squares, width=width, height=height, title=title, class_="pixels")
