"""Put the measured tables of ``bench/results/`` into README.md and the pages of docs/.

    python bench/tables.py

A table stands between ``<!-- figures:NAME -->`` and ``<!-- end -->`` and is made of
``bench/results/NAME.json`` alone, so that no number of a table is typed by hand.
``<!-- figures:NAME ratios -->`` takes the figures that the benchmark computed, most of them ratios
of neighbouring runs, instead of its rows: for figures whose milliseconds another page already has
from a quieter machine. The pictures of ``pictures.py`` are written with them, into docs/images.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import harness
import pictures

__all__ = ["fill", "pages"]

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- figures:(\w+)( ratios)? -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """README.md and docs/*.md, those without a table too."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def fill(text: str, results: Path = harness.RESULTS) -> str:
    """The text with each marked block written anew; one without results says how to get them."""

    def block(found: re.Match[str]) -> str:
        opening, name, ratios, closing = found.groups()
        return f"{opening}\n{_table(name, results, bool(ratios))}\n\n{closing}"

    return BLOCK.sub(block, text)


def _table(name: str, results: Path, ratios: bool) -> str:
    path = results / f"{name}.json"
    if not path.exists():
        return f"Not measured yet: `python bench/{name}.py --save`."
    document = json.loads(path.read_text(encoding="utf-8"))
    rows = document["rows"]
    if ratios:
        rows = [{"figure": key, "value": value} for key, value in document["figures"].items()]
    return f"{harness.table(rows)}\n\n{harness.in_words(document['machine'])}"


if __name__ == "__main__":
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (filled := fill(text)) != text:
            page.write_text(filled, encoding="utf-8")
    for name, drawn in pictures.pictures().items():
        (pictures.IMAGES / name).write_text(drawn, encoding="utf-8")
