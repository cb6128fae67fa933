"""Retention of a run's checkpoints: the newest, and the best by a metric.

The rule it keeps: a NaN is never the best, and neither is a checkpoint that was not measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orbax.checkpoint.experimental.v1 as ocp

from maas_sdk.errors import ConfigError

__all__ = ["CheckpointConfig", "Retention", "score"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """Folder, interval and retention of checkpoints."""

    # Made where it is absent. One run per folder.
    folder: Path | str
    # Save after every so many steps; None: only when asked.
    every_steps: int | None = None
    # The newest so many stay.
    keep_latest: int = 3
    # And the best so many by ``best_metric``; 0 keeps none for being good.
    keep_best: int = 0
    # A name in the ``metrics`` that ``save`` is given. A checkpoint without it is never the best.
    best_metric: str = "loss"
    # Whether the best value is the least or the greatest.
    mode: Literal["min", "max"] = "min"
    # False: ``save`` returns when everything is on the disk.
    asynchronous: bool = True
    # Whether an asynchronous save first copies the state on its devices, so that the loop need not
    # wait while it crosses to the host; None: where that pays (64 MiB or more, room for it, one
    # process).
    snapshot: bool | None = None

    def __post_init__(self) -> None:
        if self.every_steps is not None and self.every_steps < 1:
            raise ConfigError(f"every_steps: expected 1 or more, or None, got {self.every_steps}")
        if self.keep_latest < 1:
            raise ConfigError(f"keep_latest: expected 1 or more, got {self.keep_latest}")
        if self.keep_best < 0:
            raise ConfigError(f"keep_best: expected 0 or more, got {self.keep_best}")
        if self.mode not in ("min", "max"):
            raise ConfigError(f"mode: expected 'min' or 'max', got {self.mode!r}")
        if "://" in str(self.folder):
            raise ConfigError(
                f"folder: {self.folder} is a URL; mount the bucket as a folder (Cloud Storage "
                "FUSE) and give that folder's path"
            )


def score(config: CheckpointConfig, metrics: Mapping[str, float] | None) -> float:
    """Return a checkpoint's score: greater is better, -inf for no number at all."""
    value = float((metrics or {}).get(config.best_metric, math.nan))
    if math.isnan(value):
        return -math.inf
    return value if config.mode == "max" else -value


class _Measured(NamedTuple):
    """Step and metrics, as orbax's policies read them."""

    step: int
    metrics: Mapping[str, float] | None


class Retention:
    """Orbax's policy: a checkpoint stays while it is among the newest or among the best.

    The metrics come from us: orbax reads its own when it opens a folder, and one damaged file of
    one step would keep it from opening any.

    Attributes:
        metrics: of each step; filled by whoever owns the folder.
    """

    def __init__(self, config: CheckpointConfig) -> None:
        self.metrics: dict[int, Mapping[str, float]] = {}
        policies = ocp.training.preservation_policies
        kept: list[Any] = [policies.LatestN(config.keep_latest)]
        if config.keep_best:
            kept.append(
                policies.BestN(
                    get_metric_fn=lambda metrics: score(config, metrics),
                    n=config.keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._policy = policies.AnyPreservationPolicy(kept)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Return for each checkpoint, ascending by step, whether it stays."""
        measured = [_Measured(found.step, self.metrics.get(found.step)) for found in checkpoints]
        kept: Sequence[bool] = self._policy.should_preserve(measured, context=context)
        return kept
