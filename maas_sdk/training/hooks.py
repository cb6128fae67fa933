"""Hooks of a training run: records of its progress, and the callables that receive them.

The rule it keeps: a hook is any function of one record. The progress bar, the log files and the
demo's terminal are hooks like those of the user; the loop knows none of them by name. What a hook
returns is ignored, what it raises ends the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = [
    "EvalRecord",
    "Finished",
    "Hook",
    "Record",
    "Saved",
    "Skipped",
    "Started",
    "StepRecord",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """Record that the first step is about to be taken."""

    # The step that was restored; 0 for a new run.
    step: int
    # The step after which the run is over.
    steps: int
    # Rows of a step over all devices.
    batch_size: int
    # None where the data has no end or does not tell.
    steps_per_epoch: int | None
    devices: int
    # What of the sharding could not be done as asked, each with the remedy.
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """Metrics of the steps since the last such record."""

    step: int
    steps: int
    # By name: "loss", "grad_norm", "learning_rate" and what the objective reports; means over the
    # rows of these steps, each measured before its step's update. The learning rate is the last.
    metrics: Mapping[str, float]
    rows_per_s: float
    # Mean over these steps.
    step_time_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalRecord:
    """Metrics of the steps since the last evaluation, and of the evaluation."""

    step: int
    # Passes over the training data that are begun or over: 1 for the first; 0 without epochs.
    epoch: int
    # By name, as in ``StepRecord``, over the steps since the last record of this kind.
    train: Mapping[str, float]
    # By name: "loss" and what the objective reports, over the held-out rows; empty without any.
    eval: Mapping[str, float] = field(default_factory=dict)
    rows_per_s: float
    # Seconds since the last record of this kind; the first one's hold the compilation.
    wall_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-ready values."""
        return {**asdict(self), "train": dict(self.train), "eval": dict(self.eval)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """Record of a step with non-finite loss or gradients, which was not applied."""

    step: int
    # All of this run, this one included.
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """Record of a checkpoint that is being written to disk."""

    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """Record that the last step has been taken."""

    step: int
    stopped_early: bool
    skipped_steps: int
    wall_s: float


Record = Started | StepRecord | EvalRecord | Skipped | Saved | Finished
Hook = Callable[[Record], object]
