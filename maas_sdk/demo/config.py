"""Configuration of the demo, and the interface of its progress display."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from maas_sdk.errors import ConfigError

__all__ = ["DemoConfig", "StageWatch", "Watcher"]


class StageWatch(Protocol):
    """Receiver of one stage's progress."""

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Show the share of the stage that is done."""

    def done(self, line: str) -> None:
        """Show the end of the stage, and its result in one line."""


class Watcher(Protocol):
    """Display of the stages while they run."""

    def stage(self, name: str) -> AbstractContextManager[StageWatch]:
        """Begin a stage, which ends with the block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """Configuration of the demo."""

    # Folder for the bundle, the function and the report. The demo's own files in it are replaced.
    out: Path
    seed: int = 0
    epochs: int = 12
    # Cold starts that count.
    starts: int = 5
    # Virtual CPU devices that share each training batch.
    devices: int = 8
    # Warm calls of one row.
    single_calls: int = 1000
    # Times that the held-out rows are sent in frames.
    batched_rounds: int = 10

    def __post_init__(self) -> None:
        for name in ("epochs", "starts", "devices", "single_calls", "batched_rounds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected 1 or more, got {getattr(self, name)}")
