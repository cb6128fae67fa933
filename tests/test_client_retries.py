"""Retries: waits, the budget, Retry-After."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.client.clock import Clock, FakeClock
from maas_sdk.client.retries import RetryBudget, RetryPolicy, parse_retry_after
from maas_sdk.errors import TRAITS, ConfigError, MaasError, NotReadyError, OverloadedError

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


def next_wait(
    error: MaasError, policy: RetryPolicy, *, attempts: int = 1, left_s: float = 1e6, draw: float
) -> float | str:
    return policy.next_wait_s(
        error, attempts=attempts, left_s=left_s, budget=RetryBudget(policy), random=lambda: draw
    )


@pytest.mark.parametrize("kind", list(TRAITS), ids=lambda kind: kind.__name__)
def test_retried_is_what_the_error_table_says(kind: type[MaasError]) -> None:
    """Whether an error is tried again is decided by its row in errors.TRAITS and nothing else."""
    wait = next_wait(kind("no"), RetryPolicy(), draw=0.5)
    assert isinstance(wait, float) == TRAITS[kind].retryable


@pytest.mark.parametrize(
    ("attempts", "widest_s"), [(1, 0.1), (2, 0.2), (3, 0.4), (7, 6.4), (8, 10.0), (5000, 10.0)]
)
def test_waits_double_up_to_the_cap_and_are_jittered_fully(attempts: int, widest_s: float) -> None:
    """The wait is drawn from 0 … min(max_wait_s, first_wait_s · 2ⁿ)."""
    policy = RetryPolicy(max_attempts=10_000)
    for draw in (0.0, 0.25, 0.999):
        wait = next_wait(NotReadyError("x"), policy, attempts=attempts, draw=draw)
        assert wait == pytest.approx(draw * widest_s)


def test_retry_after_is_a_floor_and_still_jittered() -> None:
    """No caller comes back before Retry-After, and not all come back at the same moment."""
    error = OverloadedError("x", retry_after_s=3.0)
    assert next_wait(error, RetryPolicy(), draw=0.0) == 3.0
    assert next_wait(error, RetryPolicy(), draw=0.5) == 3.05


def test_no_wait_goes_beyond_the_deadline() -> None:
    """A wait that would end after the caller's time is not begun, and says so."""
    error = OverloadedError("x", retry_after_s=3.0)
    assert "after the deadline" in str(next_wait(error, RetryPolicy(), left_s=2.9, draw=0.0))
    assert next_wait(error, RetryPolicy(), left_s=3.1, draw=0.0) == 3.0


def test_attempts_are_bounded() -> None:
    """max_attempts counts the first attempt."""
    reason = next_wait(NotReadyError("x"), RetryPolicy(max_attempts=3), attempts=3, draw=0.0)
    assert reason == "3 of 3 attempts were made"


def test_a_refused_wait_takes_no_token() -> None:
    """Only retries that are made are paid for."""
    policy = RetryPolicy(budget_tokens=1.0, budget_share=0.0)
    budget = RetryBudget(policy)
    late = policy.next_wait_s(
        OverloadedError("x", retry_after_s=9), attempts=1, left_s=1, budget=budget, random=lambda: 0
    )
    assert isinstance(late, str)
    assert budget.take()


def test_budget_bounds_the_share_of_retries() -> None:
    """When every call fails, retries are at most the starting tokens and the share of calls."""
    policy = RetryPolicy(budget_tokens=10, budget_share=0.2)
    budget = RetryBudget(policy)
    retries = 0
    for _ in range(1000):
        budget.pay_in()
        retries += sum(budget.take() for _ in range(3))
    assert 200 <= retries <= 210


def test_five_calls_buy_exactly_one_retry() -> None:
    """Rounding of 0.2 in binary does not eat a token."""
    budget = RetryBudget(RetryPolicy(budget_tokens=1.0, budget_share=0.2))
    assert budget.take()
    for _ in range(5):
        assert not budget.take()
        budget.pay_in()
    assert budget.take()
    assert not budget.take()


@given(st.integers(1, 30), st.floats(0, 100), st.floats(0.001, 100), st.integers(0, 2**32))
def test_a_wait_is_never_negative_nor_too_long(
    attempts: int, retry_after_s: float, left_s: float, seed: int
) -> None:
    """Whatever the server says and the dice show, Retry-After ≤ wait < time left."""
    wait = RetryPolicy(max_attempts=99).next_wait_s(
        OverloadedError("x", retry_after_s=retry_after_s),
        attempts=attempts,
        left_s=left_s,
        budget=RetryBudget(RetryPolicy()),
        random=random.Random(seed).random,
    )
    assert isinstance(wait, str) or retry_after_s <= wait < left_s


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60.0),
        ("Tuesday, 14-Nov-23 22:14:20 GMT", 60.0),
        ("Tue, 14 Nov 2023 22:12:20 GMT", 0.0),
        ("-5", None),
        ("soon", None),
        ("", None),
        (".", None),
        ("1e3", None),
        ("٣", None),
        ("Tue, 99 Nov 2023 22:14:20 GMT", None),
    ],
)
def test_retry_after_is_read_as_the_rfc_has_it(header: str | None, seconds: float | None) -> None:
    """Seconds and dates are understood, a past date means now, and nonsense is no header."""
    assert parse_retry_after(header, now=NOW) == seconds


@given(st.text(max_size=40))
def test_no_retry_after_header_breaks_the_client(header: str) -> None:
    """Whatever a server writes there, it is seconds ≥ 0 or nothing."""
    seconds = parse_retry_after(header, now=NOW)
    assert seconds is None or seconds >= 0


async def test_the_real_clock_moves_on_by_itself() -> None:
    """Sleeping takes at least as long as asked, in both ways; the fake only says so."""
    clock, fake = Clock(), FakeClock(now=5.0)
    before = clock.monotonic()
    clock.sleep(0.01)
    await clock.sleep_async(0.01)
    assert clock.monotonic() - before >= 0.015
    assert clock.time() > 1.7e9
    fake.sleep(3)
    await fake.sleep_async(4)
    assert (fake.monotonic(), fake.time(), fake.slept) == (12.0, 12.0, [3, 4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_attempts": 0}, "max_attempts: expected at least 1, got 0"),
        ({"first_wait_s": -1}, "first_wait_s: expected a number ≥ 0"),
        ({"budget_share": float("nan")}, "budget_share"),
        ({"max_wait_s": float("inf")}, "max_wait_s"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(options: dict[str, float], message: str) -> None:
    """The field is named."""
    with pytest.raises(ConfigError, match=message):
        RetryPolicy(**options)  # type: ignore[arg-type]
