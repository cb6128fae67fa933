"""Configuration of training: one frozen dataclass, checked when it is made.

The rule it keeps: all settings of a run besides its model and data are here, and contradictory ones
are refused here, before anything is loaded or compiled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from maas_sdk.errors import ConfigError
from maas_sdk.sharding.rules import Rule
from maas_sdk.training.checkpoints.manager import CheckpointConfig
from maas_sdk.training.early_stopping import EarlyStopping
from maas_sdk.training.losses import LossFn, loss_by_name
from maas_sdk.training.optimizer import OptimizerConfig
from maas_sdk.training.precision import Policy

__all__ = ["EPOCHS", "TrainConfig"]

# Passes over the data when nothing is said.
EPOCHS: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Configuration of training."""

    # Passes over the training data; with neither epochs nor steps, ``EPOCHS``.
    epochs: int | None = None
    # Or steps, for data without an end.
    steps: int | None = None
    # Rows per step over all devices together; a multiple of the devices that rows are cut over.
    batch_size: int = 64
    # Decides the order of the examples. The model's initial weights have their own seed.
    seed: int = 0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    # A policy, or its text: "bf16", "int8", "params=float32,compute=bfloat16,output=float32".
    precision: Policy | str = field(default_factory=Policy)
    # A name out of ``losses.LOSSES``, or (outputs, labels) → loss of each row.
    loss: str | LossFn = "cross_entropy"
    # Share of each target that is spread over all classes; see ``losses.cross_entropy``.
    label_smoothing: float = 0.0
    # A name out of ``sharding.strategies.STRATEGIES``.
    strategy: str = "data"
    # Devices along each axis, such as {"data": -1, "fsdp": 2}; None is as the strategy has it.
    mesh: Mapping[str, int] | None = None
    # Of these, how many parts of an axis are joined by the slower network between slices, such as
    # {"data": 2} for two slices that share each batch; None is one slice.
    dcn: Mapping[str, int] | None = None
    # Which parameter is cut how; asked before the module's own annotations and the presets.
    rules: Sequence[Rule | tuple[str, Sequence[Any]]] = ()
    # Steps between evaluations; None is once an epoch, or at the end for data without epochs.
    eval_every: int | None = None
    # Steps between step records, for logs and the progress bar.
    log_every: int = 10
    early_stopping: EarlyStopping | None = None
    # Where and when to save; None keeps nothing. Its ``every_steps=None`` is after each evaluation.
    checkpoint: CheckpointConfig | None = None
    # For metrics.jsonl and, with ``tensorboard``, event files; None writes nothing.
    log_folder: Path | str | None = None
    tensorboard: bool = False
    # A bar on stderr; None is when that is a terminal.
    progress: bool | None = None
    # Batches that a thread places on the devices ahead; 0 places each when it is needed.
    prefetch: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "batch_size", "eval_every", "log_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected 1 or more, got {value}")
        if self.prefetch < 0:
            raise ConfigError(f"prefetch: expected 0 or more, got {self.prefetch}")
        if self.epochs is not None and self.steps is not None:
            raise ConfigError(
                f"epochs={self.epochs} and steps={self.steps} are both given; leave one out"
            )
        # Both raise for words that they do not know: now and not in ``fit``.
        _ = self.policy, self.loss_fn

    @property
    def policy(self) -> Policy:
        """``precision`` as a policy."""
        return Policy.parse(self.precision) if isinstance(self.precision, str) else self.precision

    @property
    def loss_fn(self) -> LossFn:
        """``loss`` as a function."""
        if callable(self.loss):
            return self.loss
        return loss_by_name(self.loss, label_smoothing=self.label_smoothing)

    def total_steps(self, steps_per_epoch: int | None) -> int:
        """Return steps of a run over data with so many per epoch; None without epochs.

        Raises:
            ConfigError: neither ``steps`` nor an epoch's length is known.
        """
        if self.steps is not None:
            return self.steps
        if steps_per_epoch is None:
            raise ConfigError("the data does not say how long an epoch is: give steps=")
        return (self.epochs or EPOCHS) * steps_per_epoch
