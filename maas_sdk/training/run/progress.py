"""Progress bar of a run on the terminal: steps, loss, rows per second, time left.

The rule it keeps: the bar is a hook like any other, draws on stderr only, and draws nothing unless
it is requested or stderr is a terminal; lines that others print go above it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import jax

from maas_sdk.errors import DependencyError
from maas_sdk.training.hooks import EvalRecord, Hook, Record, Skipped, Started, StepRecord

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(show: bool | None, *, file: TextIO | None = None) -> Iterator[tuple[Hook, ...]]:
    """Return the hook that draws the bar, removed when the run ends; none when not drawn.

    Args:
        show: True draws, False does not, None draws where stderr is a terminal and rich is there.
        file: where to draw; None is stderr.

    Raises:
        DependencyError: True, and rich is not installed.
    """
    file = sys.stderr if file is None else file
    if show is False or (show is None and not file.isatty()) or jax.process_index():
        yield ()
        return
    try:
        from rich import progress as rich
        from rich.console import Console
    except ImportError as error:
        if show is None:
            yield ()
            return
        raise DependencyError(
            "progress=True draws its bar with rich, which is not installed: "
            "pip install 'maas-sdk[cli]', or leave progress out"
        ) from error
    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[loss]}  {task.fields[rate]}"),
        rich.TimeRemainingColumn(),
    )
    # Asked for, it is drawn into a file or a pipe, too.
    console = Console(file=file, force_terminal=True if show else None)
    with rich.Progress(*columns, console=console) as bar:
        yield (_Bar(bar),)


class _Bar:
    """Progress bar updated by records; rich redraws it ten times a second."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._task: Any = None
        self._held_out = ""
        self._skipped = ""

    def __call__(self, record: Record) -> None:
        match record:
            case Started():
                for warning in record.warnings:
                    self._bar.console.print(warning)
                self._task = self._bar.add_task(
                    "train", total=record.steps, completed=record.step, loss="compiling", rate=""
                )
            case StepRecord():
                self._bar.update(
                    self._task,
                    completed=record.step,
                    loss=f"loss {record.metrics['loss']:.4g}{self._held_out}{self._skipped}",
                    rate=f"{record.rows_per_s:,.0f} rows/s",
                )
            case Skipped():
                self._skipped = f", {record.count} skipped"
            case EvalRecord():
                self._bar.update(self._task, completed=record.step)
                # Without data to evaluate on, the record has no metrics.
                if "loss" in record.eval:
                    self._held_out = f", held-out {record.eval['loss']:.4g}"
