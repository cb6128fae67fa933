"""The client's one seam to time, and a fake beside it for tests.

All of the client's reading of time, and all of its waiting, is done here; so a test of an hour of
retries takes no time.
"""

from __future__ import annotations

import time

__all__ = ["Clock", "FakeClock"]


class Clock:
    """The machine's clock."""

    def monotonic(self) -> float:
        """Return seconds since some fixed moment, never going back. For deadlines."""
        return time.monotonic()

    def time(self) -> float:
        """Return seconds since 1970-01-01 UTC. For dates that the server names."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait, blocking the thread."""
        time.sleep(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """Wait, letting the event loop run."""
        # Whoever awaits this has asyncio loaded; a synchronous client should not pay for it.
        import asyncio

        await asyncio.sleep(seconds)


class FakeClock(Clock):
    """A fake clock whose time passes only in ``sleep``.

    Attributes:
        now: seconds, of both clocks.
        slept: what was asked for, in order, seconds.
    """

    def __init__(self, now: float = 1_000_000_000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def monotonic(self) -> float:
        """Return seconds, as set."""
        return self.now

    def time(self) -> float:
        """Return seconds since 1970-01-01 UTC, as set."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Advance the clock and return at once."""
        self.slept.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        """Advance the clock and return at once."""
        self.sleep(seconds)
