"""What the demo is told, and whom it tells how it goes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from maas_sdk.errors import ConfigError

__all__ = ["DemoConfig", "StageWatch", "Watcher"]


class StageWatch(Protocol):
    """Told how one stage goes."""

    def progress(self, done: int, total: int, note: str = "") -> None:
        """So much of it is done."""

    def done(self, line: str) -> None:
        """It is finished, and this is what it found."""


class Watcher(Protocol):
    """Shows the stages while they run."""

    def stage(self, name: str) -> AbstractContextManager[StageWatch]:
        """A stage begins; it ends with the block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """What to run."""

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
