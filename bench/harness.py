"""Common parts of the benchmarks: interleaved runs, a table, the machine in words, the end.

The rule: a figure is a ratio of two things measured in turn (A B A B …) in the same minutes on the
same machine, over at least nine rounds, so that whatever slows the machine down slows both.
``finish`` prints the table and, as the last line, one JSON object that a program can read; with
``--save`` it also writes ``bench/results/<name>.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

__all__ = [
    "MIN_RUNS",
    "Sample",
    "arguments",
    "finish",
    "in_words",
    "interleave",
    "machine",
    "median_ratio",
    "missing_bytecode",
    "require_bytecode",
    "table",
    "timed",
]

MIN_RUNS = 9
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """The measured values of one contestant, in the order of the rounds."""

    name: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the values, whatever their unit."""
        return statistics.median(self.values)

    def row(self, *, unit: str = "ms", scale: float = 1e3) -> dict[str, object]:
        """Name, median, least and greatest for ``table``; ``scale`` turns values into ``unit``."""
        return {
            "what": self.name,
            f"median {unit}": round(self.median * scale, 3),
            f"min {unit}": round(min(self.values) * scale, 3),
            f"max {unit}": round(max(self.values) * scale, 3),
        }


def timed(action: Callable[[], object]) -> float:
    """Seconds of wall clock that ``action`` takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def interleave(
    contestants: Mapping[str, Callable[[], float]],
    *,
    runs: int = MIN_RUNS,
    warmup: int = 1,
    progress: bool = True,
) -> dict[str, Sample]:
    """Measure all contestants in turn, round after round.

    Args:
        contestants: by name, each a function that returns what it measured (seconds, bytes, …).
        runs: rounds, at least ``MIN_RUNS``.
        warmup: rounds before, whose values are thrown away.
        progress: one line per round on stderr.
    """
    if runs < MIN_RUNS:
        raise SystemExit(f"--runs {runs}: a median needs at least {MIN_RUNS} rounds")
    values: dict[str, list[float]] = {name: [] for name in contestants}
    for index in range(-warmup, runs):
        for name, measure in contestants.items():
            value = measure()
            if index >= 0:
                values[name].append(value)
        if progress:
            word = f"round {index + 1} of {runs}" if index >= 0 else "warm-up"
            print(f"\r{word}   ", end="", file=sys.stderr, flush=True)
    if progress:
        print(file=sys.stderr)
    return {name: Sample(name=name, values=tuple(found)) for name, found in values.items()}


def median_ratio(above: Sample, below: Sample) -> float:
    """Median of the rounds' own ratios: a slow minute hits both halves of a ratio."""
    pairs = zip(above.values, below.values, strict=True)
    return statistics.median(a / b for a, b in pairs)


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as a Markdown table, which is a readable plain table too; numbers to the right."""
    if not rows:
        return ""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[_cell(row.get(column, "")) for column in columns] for row in rows]
    right = [all(_is_number(row.get(column, 0)) for row in rows) for column in columns]
    widths = [
        max(3, len(column), *(len(line[index]) for line in cells))
        for index, column in enumerate(columns)
    ]

    def line(words: Iterable[str]) -> str:
        padded = (
            word.rjust(width) if is_right else word.ljust(width)
            for word, width, is_right in zip(words, widths, right, strict=True)
        )
        return "| " + " | ".join(padded) + " |"

    rule = (
        "-" * (width - 1) + (":" if is_right else "-")
        for width, is_right in zip(widths, right, strict=True)
    )
    return "\n".join([line(columns), line(rule), *(line(words) for words in cells)])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) and abs(value) < 1000 else f"{value}"


def machine(packages: Iterable[str] = ("numpy", "msgpack", "jaxlib")) -> dict[str, object]:
    """The machine and the versions behind a figure; no host name, no path."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return float("nan")


def missing_bytecode(modules: Iterable[ModuleType] | None = None) -> list[str]:
    """Names of imported modules (default: all) whose source has no compiled file beside it.

    With ``PYTHONDONTWRITEBYTECODE`` set, such a module is compiled anew at each start of a
    process, and a cold start measures the compiler.
    """
    missing = []
    for module in list(sys.modules.values()) if modules is None else modules:
        spec = getattr(module, "__spec__", None)
        origin = getattr(spec, "origin", None)
        if not origin or not origin.endswith(".py") or not os.path.exists(origin):
            continue
        if origin.startswith(str(Path(__file__).parent)):
            continue
        cached = importlib.util.cache_from_source(origin)
        if not os.path.exists(cached) or os.path.getmtime(cached) < os.path.getmtime(origin):
            missing.append(module.__name__)
    return sorted(missing)


def require_bytecode(modules: Iterable[ModuleType] | None = None) -> None:
    """End with the remedy where ``missing_bytecode`` finds something."""
    missing = missing_bytecode(modules)
    if missing:
        raise SystemExit(
            f"{len(missing)} modules have no bytecode, the figures would be wrong "
            f"(first: {', '.join(missing[:5])}). Compile them: python -m compileall -q <folder>"
        )


def arguments(
    description: str | None, *, runs: int = MIN_RUNS, extend: Callable[..., None] | None = None
) -> argparse.Namespace:
    """``--runs`` and ``--save``, and what ``extend(parser)`` adds."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=runs, help=f"rounds, at least {MIN_RUNS}")
    parser.add_argument("--save", action="store_true", help="write bench/results/<name>.*")
    if extend is not None:
        extend(parser)
    return parser.parse_args()


def finish(
    name: str,
    figures: Mapping[str, float],
    rows: Sequence[Mapping[str, object]],
    *,
    save: bool = False,
    targets: Mapping[str, str] | None = None,
    notes: str = "",
    packages: Iterable[str] = ("numpy", "msgpack", "jaxlib"),
) -> None:
    """Print the rows and figures, save them when asked, and print the figures as the last line.

    Args:
        name: of the benchmark; also of its files.
        figures: by name, in the order to show them.
        rows: what was measured, one mapping of column → value each.
        save: write ``bench/results/<name>.json`` and ``.md``.
        targets: what a figure should reach, in words ("≤ 1.3"), by name of figure.
        notes: how to read the figures; a paragraph of the ``.md``.
        packages: whose versions belong to the figures.
    """
    about = machine(packages)
    rounded = {key: round(float(value), 4) for key, value in figures.items()}
    figure_rows = [
        {"figure": key, "value": value, **({"target": targets.get(key, "")} if targets else {})}
        for key, value in rounded.items()
    ]
    print(table(rows), end="\n\n")
    print(table(figure_rows), end="\n\n")
    if save:
        RESULTS.mkdir(exist_ok=True)
        document = {"bench": name, "figures": rounded, "rows": list(rows), "machine": about}
        text = json.dumps(document, indent=1, ensure_ascii=False, default=str) + "\n"
        (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
        parts = [f"# {name}", notes.strip(), table(figure_rows), table(rows), in_words(about)]
        (RESULTS / f"{name}.md").write_text(
            "\n\n".join(part for part in parts if part) + "\n", encoding="utf-8"
        )
    print(json.dumps({"bench": name, "figures": rounded}), flush=True)


def in_words(about: Mapping[str, object]) -> str:
    """Return the result of ``machine`` as a sentence."""
    versions = about["versions"]
    assert isinstance(versions, dict)
    return (
        f"Measured on {about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB, "
        f"{about['system']}, Python {about['python']}, "
        + ", ".join(f"{package} {version}" for package, version in versions.items())
        + "."
    )
