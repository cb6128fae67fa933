"""Configuration of online learning, and the record of each batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from maas_sdk.errors import ConfigError
from maas_sdk.training.losses import LossFn
from maas_sdk.training.online.drift import PageHinkley
from maas_sdk.training.optimizer import OptimizerConfig
from maas_sdk.training.precision import Policy

__all__ = ["OnlineConfig", "OnlineRecord"]


def _constant() -> OptimizerConfig:
    return OptimizerConfig(learning_rate=1e-3, schedule="constant")


@dataclass(frozen=True, kw_only=True, slots=True)
class OnlineConfig:
    """Configuration of online learning."""

    # Of each step: new rows, and rows out of memory beside them.
    batch_rows: int = 64
    replay_rows: int = 64
    # Rows that the memory holds, and what decides which.
    replay_capacity: int = 4096
    seed: int = 0
    # Steps per update; after a drift, in how many updates how many.
    steps: int = 8
    drift_steps: int = 32
    drift_updates: int = 4
    # The test that the error of each batch, or its loss where there is no accuracy, goes through.
    drift: PageHinkley = field(default_factory=PageHinkley)
    # "loss" or "accuracy", on the guard. A model that begins to follow a shift becomes less sure of
    # yesterday's rows before it becomes wrong about them: its loss says so, its accuracy does not.
    guard_metric: Literal["loss", "accuracy"] = "accuracy"
    # How much worse the guard may become by one update, in the metric's unit.
    guard_margin: float = 0.03
    # One in so many new rows is not learned from but joins the guard, which keeps the newest so
    # many of them beside the given ones: a guard of yesterday alone would keep the model there.
    guard_every: int = 8
    guard_recent: int = 256
    # Publish after so many updates that were kept.
    publish_every: int = 1
    # A schedule that decays would stop learning: take "constant".
    optimizer: OptimizerConfig = field(default_factory=_constant)
    precision: Policy | str = field(default_factory=Policy)
    loss: str | LossFn = "cross_entropy"

    def __post_init__(self) -> None:
        for name in (
            *("batch_rows", "replay_capacity", "steps", "drift_steps", "guard_recent"),
            "publish_every",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        for name in ("replay_rows", "drift_updates"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if self.optimizer.ema_decay is not None:
            raise ConfigError(
                "optimizer: expected ema_decay=None: a learner judges and hands out the weights "
                f"themselves and keeps no average, got {self.optimizer.ema_decay}"
            )
        if self.guard_every < 2:
            raise ConfigError(f"guard_every: expected 2 or more, got {self.guard_every}")
        if not self.guard_margin >= 0:
            raise ConfigError(f"guard_margin: expected 0 or more, got {self.guard_margin}")
        if self.guard_metric not in ("loss", "accuracy"):
            raise ConfigError(
                f"guard_metric: expected 'loss' or 'accuracy', got {self.guard_metric!r}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class OnlineRecord:
    """Outcome of one batch."""

    # 1 for the first.
    update: int
    rows: int
    # Of the batch, before anything was learned from it: "loss", and "accuracy" for classes.
    before: Mapping[str, float]
    # Whether the detector said that the stream has changed.
    drifted: bool
    steps: int
    # The guard's metric before and after the steps.
    guard_before: float
    guard_after: float
    # False: rolled back.
    kept: bool
    # What ``publish`` returned; None where nothing was published.
    published: Any
    # Seconds of the steps with the guard, and of the publication; 0 where there was none.
    learn_s: float
    publish_s: float
