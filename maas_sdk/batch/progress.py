"""Progress of a batch prediction: rows, rate, time left.

The rule it keeps: the rate is of this run alone; time left follows from the share of the input that
is read, so it is known also where the number of rows is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["Meter", "Progress"]

# How often somebody is told.
_EVERY_S: Final = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """State of a running batch prediction."""

    # Rows of the input that are behind it, those of earlier runs included.
    rows: int
    # All of them, where that is known.
    total: int | None
    # Rows of this run that are not answered.
    bad: int
    # How much of the input is behind it, 0 to 1.
    share: float
    # Of this run.
    rows_per_s: float
    # None: not known yet.
    left_s: float | None


class Meter:
    """Adds up rows, and reports them at most five times a second.

    Args:
        tell: called from the thread that computes; None tells nobody.
        total: rows of the input, where known.
        clock: seconds, of any beginning.
    """

    def __init__(
        self,
        tell: Callable[[Progress], None] | None,
        *,
        total: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._total = total
        self._clock = clock
        self._began = self._told = clock()
        self._from: float | None = None
        # Rows and rows without an answer, of this run.
        self.rows = 0
        self.bad = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the meter was made."""
        return self._clock() - self._began

    def add(self, rows: int, bad: int, *, stop: int, share: float, share_before: float) -> None:
        """Add finished rows.

        Args:
            rows: that were.
            bad: of them without an answer.
            stop: number of the row behind them.
            share: of the input, now.
            share_before: of the input, before them; the first one is where this run begins.
        """
        self.rows += rows
        self.bad += bad
        if self._from is None:
            self._from = share_before
        now = self._clock()
        if self._tell is None or now - self._told < _EVERY_S:
            return
        self._told = now
        elapsed_s, gained = max(now - self._began, 1e-9), share - self._from
        self._tell(
            Progress(
                rows=stop,
                total=self._total,
                bad=self.bad,
                share=share,
                rows_per_s=self.rows / elapsed_s,
                left_s=elapsed_s * (1 - share) / gained if gained > 0 else None,
            )
        )
