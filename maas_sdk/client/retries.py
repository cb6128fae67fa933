"""Retry policy: the conditions of another attempt, the wait before it, and its limits.

Three bounds hold at once, and the tightest wins:

- a call is attempted at most ``max_attempts`` times;
- a wait that would end after the caller's deadline is not begun: the last error is raised at once;
- all calls of one client share a **budget**. Each first attempt pays ``budget_share`` of a token
  in, each retry takes a whole token out, so over time at most that share of what the server
  receives are retries. Without it, every client that tries three times turns a server at its limit
  into a server at four times its limit (Google's SRE book, chapter 22; gRPC's retry throttling,
  proposal A6; Finagle's RetryBudget).

Waits grow exponentially and are drawn at random from the whole interval below ("full jitter",
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), so that callers who
failed together do not come back together. A server's ``Retry-After`` is a floor under the wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from maas_sdk.errors import ConfigError, MaasError, traits

__all__ = ["RetryBudget", "RetryPolicy", "parse_http_date", "parse_retry_after"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """Retry policy for errors that ``errors.TRAITS`` calls retryable."""

    # Attempts of one call, the first included; 1 means never retry.
    max_attempts: int = 4
    # The wait before retry n (from 0) is drawn from 0 … min(max_wait_s, first_wait_s · 2ⁿ).
    first_wait_s: float = 0.1
    max_wait_s: float = 10.0
    # Retries allowed per first attempt, over time.
    budget_share: float = 0.2
    # Tokens that the budget starts with and can hold: retries in a row that a quiet client has.
    budget_tokens: float = 10.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigError(
                f"RetryPolicy.max_attempts: expected at least 1, got {self.max_attempts}"
            )
        for name in ("first_wait_s", "max_wait_s", "budget_share", "budget_tokens"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ConfigError(f"RetryPolicy.{name}: expected a number ≥ 0, got {value}")

    def next_wait_s(
        self,
        error: MaasError,
        *,
        attempts: int,
        left_s: float,
        budget: RetryBudget,
        random: Callable[[], float],
    ) -> float | str:
        """Return seconds to wait before the next attempt, or the reason why there is none.

        Args:
            error: why the last attempt failed.
            attempts: how many were made.
            left_s: seconds until the caller's deadline.
            budget: shared by the client's calls; a token is taken when a wait is returned.
            random: draws from [0, 1).
        """
        if not traits(error).retryable:
            return "it would fail again in the same way"
        if attempts >= self.max_attempts:
            return f"{attempts} of {self.max_attempts} attempts were made"
        # 2 ** 1024 is no float: the exponent is cut where max_wait_s has long taken over.
        widest_s = min(self.max_wait_s, self.first_wait_s * 2.0 ** min(attempts - 1, 64))
        wait_s = (error.retry_after_s or 0.0) + random() * widest_s
        if wait_s >= left_s:
            return f"the next attempt, in {wait_s:.3g} s, would be after the deadline"
        if not budget.take():
            return "the client's retry budget is spent"
        return wait_s


class RetryBudget:
    """Token bucket: calls add a fraction of a token, retries take one. Thread-safe."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._share = policy.budget_share
        self._most = policy.budget_tokens
        self._tokens = policy.budget_tokens
        self._lock = threading.Lock()

    def pay_in(self) -> None:
        """Record that a first attempt is about to be made."""
        with self._lock:
            self._tokens = min(self._most, self._tokens + self._share)

    def take(self) -> bool:
        """Take one retry's token; return False, and take nothing, if there is none."""
        with self._lock:
            # Shares are not exact in binary: five times 0.2 must buy one retry.
            if self._tokens < 1.0 - 1e-9:
                return False
            self._tokens = max(0.0, self._tokens - 1.0)
            return True


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Return seconds of a ``Retry-After`` header (RFC 9110, 10.2.3): a number or a date.

    Args:
        value: the header, or None.
        now: seconds since 1970 by the clock that a date is held against: the reply's own
            ``Date`` where it has one, so that two machines' clocks need not agree.

    Returns:
        Seconds ≥ 0; None for no header and for one that makes no sense.
    """
    if value is None:
        return None
    value = value.strip()
    # Fractions are outside the RFC, yet servers send them and there is one thing they can mean.
    if value.replace(".", "", 1).isdecimal() and value.isascii():
        return float(value)
    moment = parse_http_date(value)
    return None if moment is None else max(0.0, moment - now)


def parse_http_date(value: str) -> float | None:
    """Return seconds since 1970 of an HTTP date; None if it is none."""
    # Rarely needed: most servers send seconds.
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None
