"""Early stopping: the end of improvement, and the best weights.

The rule it keeps: a verdict is a pure function of the verdict before and one new value. Better is
strictly better than the best so far by ``min_delta``; NaN and infinity are never better, also not
as the first, and count as one evaluation without progress.

(``flax.training.early_stopping`` only minimises, and a NaN that comes first stays its best.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from maas_sdk.errors import ConfigError

__all__ = ["EarlyStopping", "StoppingVerdict", "judge"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlyStopping:
    """Criteria of early stopping."""

    # The evaluation's metric to watch, such as "loss" or "accuracy".
    metric: str = "loss"
    # Whether less ("min") or more ("max") is better.
    mode: Literal["min", "max"] = "min"
    # Evaluations in a row without progress after which the run ends.
    patience: int = 3
    # What a value must be better by, in the metric's unit.
    min_delta: float = 0.0
    # Whether the result is the best model or the last one.
    restore_best: bool = True

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise ConfigError(f"early stopping: mode is 'min' or 'max', got {self.mode!r}")
        if self.patience < 1:
            raise ConfigError(f"early stopping: patience must be 1 or more, got {self.patience}")
        if not self.min_delta >= 0:
            raise ConfigError(f"early stopping: min_delta must be 0 or more, got {self.min_delta}")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoppingVerdict:
    """Verdict of the evaluations so far."""

    # The best value; None before a number came.
    best: float | None = None
    # The step it was found at.
    best_step: int | None = None
    # Evaluations since then; all of them when there is no best.
    waited: int = 0

    def stop(self, config: EarlyStopping) -> bool:
        """Return True when the run should end."""
        return self.waited >= config.patience


def judge(
    config: EarlyStopping, before: StoppingVerdict, *, step: int, value: float
) -> StoppingVerdict:
    """Return the verdict after one more evaluation, which found ``value`` at ``step``."""
    better = math.isfinite(value)
    if better and before.best is not None:
        gain = before.best - value if config.mode == "min" else value - before.best
        better = gain > config.min_delta
    if better:
        return StoppingVerdict(best=value, best_step=step)
    return StoppingVerdict(best=before.best, best_step=before.best_step, waited=before.waited + 1)
