"""Draw the pictures of README.md from ``bench/results/``; ``bench/tables.py`` writes them.

A picture is an SVG file that stands alone, once in light and once in dark colours: a page shown in
a site's own dark mode cannot tell a file that it embeds which of the two was chosen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

import harness

from maas_sdk.charts.plots import Bar, Segment, bars
from maas_sdk.charts.quantities import duration
from maas_sdk.charts.svg import number, picture, text

__all__ = ["IMAGES", "cold_start", "pictures", "standing_alone"]

IMAGES = Path(__file__).parent.parent / "docs" / "images"

Scheme = Literal["light", "dark"]

# The contestants of bench/cold_start.py, ours first, in the words of somebody who has never run it.
_NAMES: Final = {
    "maas_sdk": "maas_sdk",
    "onnxruntime": "ONNX Runtime",
    "tutorial": "jit + Flax + Orbax",
}
_EMPTY: Final = "empty function"
_NETWORKS: Final = {"cnn": "CNN, 68 MB of weights", "mlp": "MLP, 503 MB of weights"}

# In pixels of the picture: a panel for each network, side by side under one line of heading.
_PANEL: Final = 420
_GAP: Final = 40
_HEADING: Final = 34
_HEIGHT: Final = 280  # of the four bars


def pictures(results: Path = harness.RESULTS) -> dict[str, str]:
    """Every picture by file name; none for a benchmark that has no results yet."""
    path = results / "cold_start.json"
    if not path.exists():
        return {}
    drawn = cold_start(json.loads(path.read_text(encoding="utf-8")))
    return {
        f"cold-start-{scheme}.svg": standing_alone(drawn, scheme) for scheme in ("light", "dark")
    }


def cold_start(document: Mapping[str, Any]) -> str:
    """Bars of seconds from process start to first answer, a panel for each network.

    The panels have scales of their own, both from zero: on the larger network's scale the smaller
    one's bars would be too short to compare.
    """
    median_s = {row["what"]: row["median ms"] / 1e3 for row in document["rows"]}
    drawn = []
    for index, (network, heading) in enumerate(_NETWORKS.items()):
        left = index * (_PANEL + _GAP)
        rows = [_bar(_EMPTY, median_s[_EMPTY])]
        rows += [_bar(name, median_s[f"{network} {what}"]) for what, name in _NAMES.items()]
        panel = bars(rows, title=heading, format_=duration, width=_PANEL)
        drawn.append(text(heading, left, 16, "total"))
        drawn.append(_placed(panel, left, _HEADING))
    return picture(
        *drawn,
        width=len(_NETWORKS) * (_PANEL + _GAP) - _GAP,
        height=_HEADING + _HEIGHT,
        title="Time from process start to the first correct answer over HTTP, in seconds",
    )


def standing_alone(drawn: str, scheme: Scheme | None = None) -> str:
    """The picture with its style in it; without a scheme it follows the reader's system."""
    css = files("maas_sdk.reports").joinpath("page.css").read_text(encoding="utf-8")
    # The colours, light and dark, stand in front; then what charts need of the rest.
    colours = css[: css.index("* {")]
    rules = [line for line in css.splitlines() if re.match(r"\.chart [^{]", line)]
    style = "\n".join([colours, "text { font-family: sans-serif; }", *rules])
    if scheme is not None:
        # Written out, since many viewers of SVG files know no variables.
        light, dark = re.findall(r":root \{(.*?)\}", colours, re.S)
        found = dict(
            re.findall(r"--([\w-]+): (#\w+);", light if scheme == "light" else light + dark)
        )
        style = re.sub(r"var\(--([\w-]+)\)", lambda name: found[name[1]], style[len(colours) :])
    opening = '<svg xmlns="http://www.w3.org/2000/svg" '
    return drawn.replace("<svg ", opening, 1).replace(">", f"><style>{style}</style>", 1)


def _bar(name: str, seconds: float) -> Bar:
    class_ = "accent" if name == _NAMES["maas_sdk"] else "quiet"
    return Bar(name=name, segments=(Segment(name=name, value=seconds, class_=class_),))


def _placed(svg: str, left: float, top: float) -> str:
    """A picture inside another one, at a point and in its own size."""
    at = f'<svg x="{number(left)}" y="{number(top)}" width="{_PANEL}" height="{_HEIGHT}" '
    # Its class goes: the rules for a chart would make it as wide as the outer picture.
    return svg.replace("<svg ", at, 1).replace(' class="chart"', "", 1)
