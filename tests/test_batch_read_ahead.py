"""Stages that run ahead: order, bounds, errors, and an end."""

from __future__ import annotations

import threading
import time

import pytest

from maas_sdk.batch.read_ahead import ahead


def test_items_come_in_order_and_the_stages_overlap():
    """Two stages of 20 ms a piece take hardly longer than one."""

    def slow():
        for number in range(10):
            time.sleep(0.02)
            yield number

    began = time.monotonic()
    found = []
    with ahead(slow(), depth=2, name="slow") as items:
        for item in items:
            time.sleep(0.02)
            found.append(item)
    assert found == list(range(10))
    assert time.monotonic() - began < 0.36


def test_it_runs_no_further_ahead_than_it_may():
    """With room for two, a third is worked out and waits; a fourth is not begun."""
    begun = []

    def numbers():
        for number in range(100):
            begun.append(number)
            yield number

    with ahead(numbers(), depth=2, name="numbers") as items:
        assert next(items) == 0
        time.sleep(0.2)
        assert len(begun) <= 4


def test_an_error_comes_where_items_are_taken():
    """What was worked out before it comes first."""

    def broken():
        yield 1
        raise ValueError("broken")

    with ahead(broken(), depth=2, name="broken") as items:
        assert next(items) == 1
        with pytest.raises(ValueError, match="broken"):
            next(items)


def test_who_leaves_stops_the_stage():
    """The generator is closed and the thread gone, also when it waited for room."""
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    with ahead(endless(), depth=1, name="endless") as items:
        next(items)
    assert closed.is_set()
    assert not any(thread.name == "endless" for thread in threading.enumerate())
