"""Put the measured tables of ``bench/results/`` into README.md and the pages of docs/.

    python bench/tables.py

A table stands between ``<!-- figures:NAME -->`` and ``<!-- end -->`` and is made of
``bench/results/NAME.json`` alone, so that no number of a table is typed by hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import harness

__all__ = ["fill", "pages"]

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- figures:(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """README.md and docs/*.md, those without a table too."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def fill(text: str, results: Path = harness.RESULTS) -> str:
    """The text with each marked block written anew; one without results says how to get them."""

    def block(found: re.Match[str]) -> str:
        opening, name, closing = found.groups()
        return f"{opening}\n{_table(name, results)}\n\n{closing}"

    return BLOCK.sub(block, text)


def _table(name: str, results: Path) -> str:
    path = results / f"{name}.json"
    if not path.exists():
        return f"Not measured yet: `python bench/{name}.py --save`."
    document = json.loads(path.read_text(encoding="utf-8"))
    return f"{harness.table(document['rows'])}\n\n{harness.in_words(document['machine'])}"


if __name__ == "__main__":
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (filled := fill(text)) != text:
            page.write_text(filled, encoding="utf-8")
