"""The optimizer of a training run: AdamW under a learning rate that warms up and decays.

The rule it keeps: the schedule is a function of the step alone, so it is compiled into the step.
"""

from __future__ import annotations

from dataclasses import dataclass

import optax

from maas_sdk.errors import ConfigError

__all__ = ["OptimizerConfig", "make_optimizer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019) with linear warm-up and cosine decay to zero."""

    # Highest learning rate, reached at the end of the warm-up.
    learning_rate: float = 3e-3
    # Share of all steps that the warm-up takes.
    warmup_fraction: float = 0.1
    # Decoupled weight decay; 0 turns it off.
    weight_decay: float = 1e-2
    # Gradients are scaled down to this global L2 norm; None leaves them as they are.
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate: expected more than 0, got {self.learning_rate}")
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(f"warmup_fraction: expected 0 ≤ x < 1, got {self.warmup_fraction}")
        if self.weight_decay < 0:
            raise ConfigError(f"weight_decay: expected 0 or more, got {self.weight_decay}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ConfigError(f"clip_norm: expected more than 0 or None, got {self.clip_norm}")


def make_optimizer(config: OptimizerConfig, *, steps: int) -> optax.GradientTransformation:
    """The optax transformation for a run of ``steps`` steps."""
    schedule = optax.schedules.warmup_cosine_decay_schedule(
        init_value=0.0 if config.warmup_fraction else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=round(config.warmup_fraction * steps),
        decay_steps=max(steps, 1),
    )
    clip = (
        optax.identity()
        if config.clip_norm is None
        else optax.clip_by_global_norm(config.clip_norm)
    )
    return optax.chain(clip, optax.adamw(schedule, weight_decay=config.weight_decay))
