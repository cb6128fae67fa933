"""Progress events of an export: one frozen value per step, handed to the caller.

The rule: nothing is decided silently. A choice on the user's behalf that changes the served model
(evaluation mode, a narrowed dtype, exact batch sizes) is an event with ``warning=True`` and a line
in the log ``maas_sdk.export``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Event", "Progress", "Reporter", "Stage"]

_LOG = logging.getLogger("maas_sdk.export")

Stage = Literal["trace", "check", "lower", "compile", "verify", "write"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One finished step of an export."""

    stage: Stage
    message: str
    # Steps of this stage (and target) that are finished, and how many there are.
    done: int = 1
    total: int = 1
    # The target that is being compiled or verified; None for steps that concern all of them.
    target: str | None = None
    # True: something the user should know about the model as it will be served.
    warning: bool = False


Progress = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reporter:
    """Passes events on to the caller's callback, and warnings to the log as well."""

    progress: Progress | None = None

    def step(
        self,
        stage: Stage,
        message: str,
        *,
        done: int = 1,
        total: int = 1,
        target: str | None = None,
    ) -> None:
        """Report a finished step."""
        if self.progress is not None:
            event = Event(stage=stage, message=message, done=done, total=total, target=target)
            self.progress(event)

    def warn(self, stage: Stage, message: str) -> None:
        """Report a warning."""
        _LOG.warning("%s", message)
        if self.progress is not None:
            self.progress(Event(stage=stage, message=message, warning=True))
