from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from maas_sdk.errors import ConfigError
from maas_sdk.training.schedules import SCHEDULES, make_schedule


def rates(name: str, updates: int, **options: Any) -> np.ndarray:
    """The learning rate of each update, and the one after the last."""
    schedule = make_schedule(name, peak=2.0, updates=updates, **options)
    return np.array([float(schedule(count)) for count in range(updates + 1)])


def half_cosine(start: float, end: float, count: int) -> np.ndarray:
    """Start and end included, count steps between them."""
    return end + (start - end) * 0.5 * (1 + np.cos(np.pi * np.arange(count + 1) / count))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("constant", {}, np.full(11, 2.0)),
        ("constant", {"warmup_fraction": 0.2}, [0, 1, *[2] * 9]),
        ("linear", {}, np.linspace(2, 0, 11)),
        ("linear", {"end_fraction": 0.5}, np.linspace(2, 1, 11)),
        ("cosine", {}, half_cosine(2, 0, 10)),
        ("warmup_cosine", {}, [0, *half_cosine(2, 0, 9)]),
        (
            "warmup_cosine",
            {"warmup_fraction": 0.4, "end_fraction": 0.1},
            [0, 0.5, 1, 1.5, *half_cosine(2, 0.2, 6)],
        ),
        ("exponential", {}, 2 * 0.01 ** (np.arange(11) / 10)),
        ("piecewise", {}, [*[2] * 5, *[0.2] * 3, *[0.02] * 3]),
        (
            "piecewise",
            {"pieces": ((0.3, 0.5),), "warmup_fraction": 0.2},
            [0, 1, 2, *[1] * 8],
        ),
        ("onecycle", {}, [*half_cosine(0.08, 2, 3)[:3], *half_cosine(2, 8e-6, 7)]),
        ("wsd", {}, [0, *[2] * 7, 2, 1, 0]),
        (
            "wsd",
            {"cooldown_fraction": 0.5, "end_fraction": 0.5, "warmup_fraction": 0},
            [*[2] * 5, *np.linspace(2, 1, 6)],
        ),
    ],
)
def test_rates_are_what_the_formula_says(name: str, options: dict[str, Any], expected: Any) -> None:
    """Ten updates of each schedule, against NumPy."""
    np.testing.assert_allclose(rates(name, 10, **options), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("updates", [0, 1, 2, 3, 7, 100])
@pytest.mark.parametrize("warmup_fraction", [None, 0.0, 0.9])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_length_of_run_has_a_schedule(
    name: str, warmup_fraction: float | None, updates: int
) -> None:
    """No length divides by zero, and no rate is above the peak, negative or not a number."""
    found = rates(name, updates, warmup_fraction=warmup_fraction, cooldown_fraction=0.1)
    assert np.all(np.isfinite(found))
    assert np.all(found >= 0)
    assert np.all(found <= 2.0 + 1e-6)


def test_a_schedule_is_compiled_into_the_step() -> None:
    """It takes a tracer: the count need not leave the device."""
    for name in SCHEDULES:
        schedule = make_schedule(name, peak=2.0, updates=10)
        np.testing.assert_allclose(jax.jit(schedule)(3), schedule(3), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cosin"}, "unknown name 'cosin'; known are constant, linear, cosine"),
        ({"peak": 0.0}, "learning_rate: expected more than 0, got 0.0"),
        ({"warmup_fraction": 1.0}, "warmup_fraction: expected 0 ≤ x < 1, got 1.0"),
        ({"end_fraction": 2.0}, "end_fraction: expected 0 ≤ x ≤ 1, got 2.0"),
        ({"name": "exponential", "end_fraction": 0.0}, "'exponential' never reaches 0"),
        (
            {"name": "wsd", "warmup_fraction": 0.5, "cooldown_fraction": 0.6},
            "cooldown_fraction: expected 0 ≤ x ≤ 0.5, what the warm-up leaves, got 0.6",
        ),
        ({"pieces": ((0.5, 0.1), (0.2, 0.1))}, r"shares 0 < x < 1 that rise, got \(0.5, 0.2\)"),
        ({"pieces": ((0.5, 0.0),)}, "expected factors above 0"),
    ],
)
def test_what_is_no_schedule_is_refused(options: dict[str, Any], message: str) -> None:
    """Each option says what it may be."""
    with pytest.raises(ConfigError, match=message):
        make_schedule(**{"name": "linear", "peak": 1.0, "updates": 10, **options})
