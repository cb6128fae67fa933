"""No number of a measured table is typed by hand, in the README or in docs/."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
MACHINE = {
    "cpu": "a CPU",
    "cores": 2,
    "memory_gib": 8.0,
    "system": "Linux",
    "python": "3.11",
    "versions": {"numpy": "2.0"},
}


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "bench")
    return importlib.import_module("tables")


def test_the_pages_have_the_committed_figures(tables: ModuleType) -> None:
    """Their tables are those of bench/results; `make figures` writes them."""
    texts = {page.name: page.read_text(encoding="utf-8") for page in tables.pages()}
    assert "<!-- figures:cold_start -->" in texts["cold-start.md"]
    assert "<!-- figures:quantize -->" in texts["quantization.md"]
    for name, text in texts.items():
        assert tables.fill(text) == text, f"{name}: run make figures"


def test_milliseconds_of_cold_starts_stand_once(tables: ModuleType) -> None:
    """Other pages give ratios: the same network measured on a busier day would contradict."""
    pattern = re.compile(r"<!-- figures:(cold_start|seal|quantize_cold|package)( ratios)? -->")
    found = {
        (page.name, name): bool(ratios)
        for page in tables.pages()
        for name, ratios in pattern.findall(page.read_text(encoding="utf-8"))
    }
    assert found.pop(("cold-start.md", "cold_start")) is False
    assert found
    assert all(found.values()), found


def test_a_block_of_ratios_has_no_rows(tables: ModuleType, tmp_path: Path) -> None:
    """The figures that the benchmark computed, and the machine."""
    document = {"rows": [{"ms": 3.5}], "figures": {"ours_vs_theirs": 1.25}, "machine": MACHINE}
    (tmp_path / "seal.json").write_text(json.dumps(document))
    filled = tables.fill("<!-- figures:seal ratios -->\n<!-- end -->", tmp_path)
    assert "| ours_vs_theirs |  1.25 |" in filled
    assert "3.5" not in filled
    assert "Measured on a CPU, 2 cores" in filled


def test_a_block_is_written_anew(tables: ModuleType, tmp_path: Path) -> None:
    """Only what stands between the marks changes, and writing twice changes nothing."""
    document = {"rows": [{"what": "ours", "median ms": 3.5}], "machine": MACHINE}
    (tmp_path / "wire.json").write_text(json.dumps(document))
    text = "before\n<!-- figures:wire -->\nold\n<!-- end -->\nafter\n"
    filled = tables.fill(text, tmp_path)
    assert filled.startswith("before\n<!-- figures:wire -->\n\n| what")
    assert "| ours |       3.5 |" in filled
    assert "Measured on a CPU, 2 cores" in filled
    assert filled.endswith("\n<!-- end -->\nafter\n")
    assert "old" not in filled
    assert tables.fill(filled, tmp_path) == filled


def test_without_results_it_says_how_to_get_them(tables: ModuleType, tmp_path: Path) -> None:
    """A checkout before the first measurement still has a true README."""
    text = "<!-- figures:wire -->\n<!-- end -->"
    assert "Not measured yet: `python bench/wire.py --save`." in tables.fill(text, tmp_path)
