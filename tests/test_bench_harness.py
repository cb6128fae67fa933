"""The harness of the benchmarks: rounds in turn, figures as the last line, no trace of the host."""

from __future__ import annotations

import importlib.util
import json
import py_compile
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_harness", BENCH / "harness.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_harness", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return module


def test_rounds_are_interleaved(harness: ModuleType) -> None:
    """A B A B …, the warm-up thrown away, and the ratio taken round by round."""
    order = []

    def contestant(name: str, values: list[float]) -> object:
        def measure() -> float:
            order.append(name)
            return values.pop(0)

        return measure

    samples = harness.interleave(
        {"a": contestant("a", [99.0, *[2.0] * 9]), "b": contestant("b", [99.0, *[1.0] * 9])},
        runs=9,
        progress=False,
    )
    assert order == ["a", "b"] * 10
    assert samples["a"].values == (2.0,) * 9
    assert harness.median_ratio(samples["a"], samples["b"]) == 2.0
    with pytest.raises(SystemExit, match="at least 9"):
        harness.interleave({}, runs=3)


def test_figures_are_the_last_line(
    harness: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A program reads the last line, people the table; what is saved names no host and no path."""
    rows = [{"what": "a", "ms": 1.5}, {"what": "longer", "ms": 1234.5}]
    harness.finish("toy", {"ratio": 1.23456}, rows, save=True, targets={"ratio": "≤ 2"})
    printed = capsys.readouterr().out
    expected = {"bench": "toy", "figures": {"ratio": 1.2346}}
    assert json.loads(printed.splitlines()[-1]) == expected
    assert "| longer | 1234.5 |" in printed
    saved = (tmp_path / "results" / "toy.json").read_text()
    page = (tmp_path / "results" / "toy.md").read_text()
    assert json.loads(saved)["figures"] == expected["figures"]
    about = json.loads(saved)["machine"]
    assert about.keys() == {"cpu", "cores", "memory_gib", "system", "python", "versions"}
    assert page.startswith("# toy\n")
    assert "≤ 2" in page
    for text in (saved, page):
        assert str(tmp_path) not in text
        assert str(Path.home()) not in text


def test_missing_bytecode_is_found(harness: ModuleType, tmp_path: Path) -> None:
    """A module that is compiled anew at each start is named, and the remedy with it."""
    source = tmp_path / "fresh.py"
    source.write_text("x = 1\n")
    spec = importlib.util.spec_from_file_location("fresh", source)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    assert harness.missing_bytecode([module]) == ["fresh"]
    with pytest.raises(SystemExit, match=r"1 modules have no bytecode.*compileall"):
        harness.require_bytecode([module])
    py_compile.compile(str(source))
    assert harness.missing_bytecode([module]) == []
