"""Metric logs of a run: JSON lines for programs, TensorBoard events for people.

The rule it keeps: both files have the same scalars under the same names (MaxText's), one point per
step at most; a run that is resumed at step n overwrites the records after n. Only the first
of several processes writes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax

from maas_sdk.errors import DependencyError
from maas_sdk.training.hooks import EvalRecord, Hook, Record, Skipped, Started, StepRecord
from maas_sdk.training.metrics import log_name

__all__ = ["JSON_LINES", "JsonLines", "TensorBoard", "log_files", "scalars"]

# The file in the log folder.
JSON_LINES = "metrics.jsonl"


def scalars(record: Record) -> dict[str, float]:
    """Return a record's scalars by log name; empty for one that has none."""
    match record:
        case StepRecord():
            return {
                **{log_name("learning", name): value for name, value in record.metrics.items()},
                "perf/step_time_seconds": record.step_time_s,
                "perf/rows_per_second": record.rows_per_s,
            }
        case EvalRecord():
            return {log_name("evaluation", name): value for name, value in record.eval.items()}
        case Skipped():
            return {"perf/skipped_steps": float(record.count)}
    return {}


class JsonLines:
    """A hook that writes one line for each record: ``{"step": 20, "learning/loss": 0.31, …}``.

    NaN and infinity, which JSON does not know, are written as null.
    """

    def __init__(self, folder: Path | str) -> None:
        self.file = Path(folder) / JSON_LINES
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._out = self.file.open("a", encoding="utf-8")

    def __call__(self, record: Record) -> None:
        """Write a record in whole lines, so that a concurrent reader sees no half of one."""
        if isinstance(record, Started):
            self._drop_behind(record.step)
        elif found := scalars(record):
            finite = {name: v if math.isfinite(v) else None for name, v in found.items()}
            self._out.write(json.dumps({"step": record.step, **finite}) + "\n")
            self._out.flush()

    def close(self) -> None:
        """Close the file."""
        self._out.close()

    def _drop_behind(self, step: int) -> None:
        """Keep lines up to a step; a line that was cut by a kill is dropped too."""
        kept = []
        for line in self.file.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue
        self._out.close()
        # Step 0 is a new run: what is there is of another one.
        self.file.write_text("".join(kept) if step else "", encoding="utf-8")
        self._out = self.file.open("a", encoding="utf-8")


class TensorBoard:
    """A hook that writes an event file, for ``tensorboard --logdir <folder>``.

    Raises:
        DependencyError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path | str) -> None:
        try:
            from tensorboardX import SummaryWriter  # type: ignore[import-untyped]
        except ImportError as error:
            raise DependencyError(
                "TensorBoard's event files are written by tensorboardX, which is not installed: "
                "pip install 'maas-sdk[tensorboard]', or set tensorboard=False"
            ) from error
        # The file is made at the first record, which says from which step on points are dropped.
        self._make: Any = SummaryWriter
        self._folder = str(folder)
        self._writer: Any = None

    def __call__(self, record: Record) -> None:
        """Add a record's scalars; they reach the disk within seconds."""
        if isinstance(record, Started):
            # Readers drop the points behind a purge step. Files are named by the second, and
            # one of the same name is overwritten: the suffix keeps what is gone on from.
            self._writer = self._make(
                self._folder,
                purge_step=record.step + 1,
                flush_secs=10,
                filename_suffix=f".from{record.step}",
            )
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record.step)

    def close(self) -> None:
        """Write the remaining events."""
        if self._writer is not None:
            self._writer.close()


@contextmanager
def log_files(folder: Path | str | None, *, tensorboard: bool) -> Iterator[tuple[Hook, ...]]:
    """Return the hooks that write a run's files, closed when it ends, however it ends.

    Args:
        folder: where; None, or a process that is not the first, writes nothing.
        tensorboard: whether an event file too.

    Raises:
        DependencyError: tensorboardX is wanted and not installed.
    """
    with ExitStack() as stack:
        hooks: list[Hook] = []
        if folder is not None and jax.process_index() == 0:
            lines = JsonLines(folder)
            stack.callback(lines.close)
            hooks.append(lines)
            if tensorboard:
                events = TensorBoard(folder)
                stack.callback(events.close)
                hooks.append(events)
        yield tuple(hooks)
