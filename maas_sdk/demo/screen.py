"""Terminal display of the demo: a bar for the running stage, a line for each finished one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from maas_sdk.charts.quantities import count, data_size, duration, percent, ratio
from maas_sdk.demo.result import DemoResult, checks, quantile

__all__ = ["Screen", "table"]


@dataclass(slots=True)
class _Bar:
    """The bar of one stage."""

    progress_bar: Progress
    task: TaskID
    line: str = field(default="")

    def progress(self, done: int, total: int, note: str = "") -> None:
        self.progress_bar.update(self.task, completed=done, total=total, note=escape(note))

    def done(self, line: str) -> None:
        self.line = line


class Screen:
    """A ``Watcher`` that writes to a console; use it as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("  {task.description:<11}"),
            BarColumn(bar_width=28),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}[/dim]"),
            console=console,
            transient=True,
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[_Bar]:
        """Show a bar while the block runs, and a line when it has ended well."""
        began = time.perf_counter()
        task = self._progress.add_task(name, total=None, note="")
        bar = _Bar(self._progress, task)
        try:
            yield bar
        finally:
            self._progress.remove_task(task)
        took = duration(time.perf_counter() - began)
        self._console.print(
            f"[green]✓[/green] {name:<11} [dim]{took:>7}[/dim]  {escape(bar.line)}", soft_wrap=True
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def table(result: DemoResult) -> Table:
    """Return everything in one table, the checks at the end."""
    shown = Table(title="maas demo", title_justify="left", title_style="bold", show_header=False)
    shown.add_column(style="dim")
    shown.add_column()
    trained, quantized = result.variants[0], result.variants[-1]
    cold, calls = result.cold_start, result.calls
    latencies = calls.latencies_s
    rows = [
        ("accuracy as trained", percent(trained.accuracy)),
        (
            "accuracy int8",
            f"{percent(quantized.accuracy)}, weights {data_size(trained.nbytes)} → "
            f"{data_size(quantized.nbytes)}",
        ),
        (
            "bundle",
            f"{data_size(result.packaged.bundle_nbytes)}, {', '.join(result.packaged.targets)}",
        ),
        ("cold start", f"{duration(cold.function_s)}, {ratio(cold.ratio)} an empty function"),
        *((f"  {s.name}", duration(s.duration_s)) for s in cold.function),
        (
            "latency, one row",
            f"p50 {duration(statistics.median(latencies))}, "
            f"p99 {duration(quantile(latencies, 0.99))}",
        ),
        (
            "rows per second",
            f"{count(calls.single_rows_per_s)} one by one, "
            f"{count(calls.batched_rows_per_s)} batched",
        ),
        ("whole demo", duration(sum(stage.duration_s for stage in result.stages))),
    ]
    for name, value in rows:
        shown.add_row(name, value)
    shown.add_section()
    for check in checks(result):
        mark = "[green]✓[/green]" if check.passed else "[red]✕[/red]"
        shown.add_row(f"{mark} {escape(check.name)}", escape(check.found))
    return shown
