"""Concept drift detection: the Page–Hinkley test on a model's error.

Page 1954 ("Continuous inspection schemes", Biometrika 41), in the form of Gama et al. 2014 ("A
survey on concept drift adaptation", ACM Computing Surveys 46, section 3.2): over values x_1 … x_t
with the running mean x̄_t, it sums up m_t = Σ (x_i - x̄_i - δ) and says that the mean has risen when
m_t lies more than λ above its least value so far.

The rule it keeps: a detector is a value; ``update`` gives the next one and changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from maas_sdk.errors import ConfigError, InputError

__all__ = ["PageHinkley"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PageHinkley:
    """A test for a rise of the mean, with its running statistics."""

    # δ: a rise of the mean by less than this is none. In the unit of the values.
    tolerance: float = 0.01
    # λ: what has to add up beyond it before it is said. In the same unit, times values.
    threshold: float = 0.3
    # Values that must be seen before anything is said.
    least_values: int = 5
    # t, x̄_t, m_t and the least m so far.
    count: int = 0
    mean: float = 0.0
    excess: float = 0.0
    least_excess: float = 0.0

    def __post_init__(self) -> None:
        if self.tolerance < 0:
            raise ConfigError(f"drift tolerance: expected 0 or more, got {self.tolerance}")
        if self.threshold <= 0:
            raise ConfigError(f"drift threshold: expected more than 0, got {self.threshold}")

    @property
    def drifted(self) -> bool:
        """True when the mean has risen."""
        return self.count >= self.least_values and self.excess - self.least_excess > self.threshold

    def update(self, value: float) -> PageHinkley:
        """Return the detector after one more value.

        Raises:
            InputError: the value is not finite.
        """
        if not math.isfinite(value):
            raise InputError(f"drift: expected a finite value, got {value}")
        count = self.count + 1
        mean = self.mean + (value - self.mean) / count
        excess = self.excess + value - mean - self.tolerance
        return replace(
            self,
            count=count,
            mean=mean,
            excess=excess,
            least_excess=min(self.least_excess, excess),
        )

    def reset(self) -> PageHinkley:
        """Return the test in its initial state; for after a drift that was answered."""
        return replace(self, count=0, mean=0.0, excess=0.0, least_excess=0.0)
