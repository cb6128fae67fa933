"""Small grey images, drawn for the report.

Dimension letters: H and W height and width of an image.
"""

from __future__ import annotations

from maas_sdk.charts.svg import element, picture
from maas_sdk.tensors import Array

__all__ = ["pixels"]


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
