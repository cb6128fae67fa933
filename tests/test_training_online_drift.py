from __future__ import annotations

import math

import numpy as np
import pytest

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.training.online.drift import PageHinkley


def first_alarm(detector: PageHinkley, values: np.ndarray) -> int | None:
    for index, value in enumerate(values):
        detector = detector.update(float(value))
        if detector.drifted:
            return index
    return None


def test_against_the_definition() -> None:
    """m_t and its least value are those of the formula, computed from all values at once."""
    values = np.random.default_rng(0).normal(size=50)
    detector = PageHinkley(tolerance=0.1, threshold=1e9)
    for value in values:
        detector = detector.update(float(value))
    means = np.cumsum(values) / np.arange(1, 51)
    m = np.cumsum(values - means - 0.1)
    assert detector.count == 50
    assert detector.mean == pytest.approx(means[-1])
    assert detector.excess == pytest.approx(m[-1])
    assert detector.least_excess == pytest.approx(min(0.0, m.min()))


def test_a_rise_is_found_and_noise_is_not() -> None:
    """Error rates around 5 %: 500 batches in peace; 40 % from one batch on is said within two."""
    generator = np.random.default_rng(1)
    calm = generator.binomial(64, 0.05, size=500) / 64
    assert first_alarm(PageHinkley(), calm) is None
    shifted = np.concatenate([calm[:100], generator.binomial(64, 0.4, size=20) / 64])
    assert first_alarm(PageHinkley(), shifted) in (100, 101)


def test_a_fall_is_no_drift() -> None:
    """A model that becomes better is no reason for alarm."""
    values = np.concatenate([np.full(50, 0.5), np.full(200, 0.1)])
    assert first_alarm(PageHinkley(), values) is None


def test_it_begins_anew_after_a_reset() -> None:
    """What was answered is forgotten; the settings stay; the old value is unchanged."""
    risen = PageHinkley(threshold=0.2, least_values=1)
    for value in (0.0, 1.0):
        risen = risen.update(value)
    assert risen.drifted
    again = risen.reset()
    assert risen.drifted
    assert not again.drifted
    assert again == PageHinkley(threshold=0.2, least_values=1)


def test_settings_and_values_are_checked() -> None:
    """Negative settings, and values that no mean can be taken of."""
    with pytest.raises(ConfigError, match="tolerance: expected 0 or more, got -1"):
        PageHinkley(tolerance=-1)
    with pytest.raises(ConfigError, match="threshold: expected more than 0, got 0"):
        PageHinkley(threshold=0)
    with pytest.raises(InputError, match="expected a finite value, got nan"):
        PageHinkley().update(math.nan)
