"""Learning-rate schedules by name, made with optax.

The rule it keeps: a schedule is a function of the number of updates made so far alone, so it is
compiled into the step, and every length of run has one, a single update included. Its shape is
given in shares of the run, so a configuration means the same for a short and for a long one.

    name            from the end of the warm-up, with p the peak and e the end
    constant        p
    linear          p to e in a line
    cosine          p to e in half a cosine (Loshchilov and Hutter 2017)
    warmup_cosine   the same, with a warm-up unless told otherwise
    exponential     p to e by one factor per update
    piecewise       p, times a factor at each of given shares of the run (He et al. 2016)
    onecycle        p / 25 up to p and down to e, both in half a cosine (Smith and Topin 2019)
    wsd             p, then to e in a line at the end: warm-up, stable, decay (Hu et al. 2024)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import optax

from maas_sdk.errors import ConfigError

__all__ = ["SCHEDULES", "ScheduleShape", "make_schedule"]

# How far below its peak optax's one-cycle schedule starts; of Smith and Topin's code.
_ONECYCLE_START: Final = 25.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleShape:
    """Shape of a schedule; counts are of updates, the warm-up's included."""

    # The highest learning rate.
    peak: float
    # What is left of the peak at the end, as a share of it.
    end: float
    # Updates in the whole run, 1 or more.
    total: int
    # Updates of the linear rise from 0; less than ``total``.
    warmup: int
    # Updates of the fall at the end, for ``wsd``.
    cooldown: int
    # (share of the run, factor) in order, for ``piecewise``.
    pieces: tuple[tuple[float, float], ...]

    @property
    def rest(self) -> int:
        """Updates after the warm-up, 1 or more."""
        return self.total - self.warmup


@dataclass(frozen=True, kw_only=True, slots=True)
class _Named:
    """A schedule with its default parameters."""

    # What comes after the warm-up, as a function of the updates since.
    make: Callable[[ScheduleShape], optax.Schedule]
    warmup_fraction: float = 0.0
    end_fraction: float = 0.0
    # Whether the schedule rises by itself.
    rises: bool = False


def make_schedule(
    name: str,
    *,
    peak: float,
    updates: int,
    warmup_fraction: float | None = None,
    end_fraction: float | None = None,
    cooldown_fraction: float = 0.2,
    pieces: Sequence[tuple[float, float]] = ((0.5, 0.1), (0.75, 0.1)),
) -> optax.Schedule:
    """Return a function: updates made so far → learning rate of the next one.

    Args:
        name: out of ``SCHEDULES``.
        peak: the highest learning rate.
        updates: how many the run makes.
        warmup_fraction: share of the run in which the rate rises in a line from 0; of ``onecycle``,
            in which it rises to the peak. None is 0.1 for ``warmup_cosine`` and ``wsd``, 0.3 for
            ``onecycle`` and none for the others.
        end_fraction: rate at the end as a share of the peak. None is 0, of ``exponential`` 0.01
            and of ``onecycle`` 4e-6, as optax has it. Of no use to ``constant`` and ``piecewise``.
        cooldown_fraction: share of the run in which ``wsd`` falls.
        pieces: (share of the run, factor) in order, for ``piecewise``.

    Raises:
        ConfigError: no such schedule, or a share that is none.
    """
    if name not in SCHEDULES:
        raise ConfigError(
            f"schedule: unknown name {name!r}; known are {', '.join(SCHEDULES)}", schedule=name
        )
    named = SCHEDULES[name]
    warmup = named.warmup_fraction if warmup_fraction is None else warmup_fraction
    end = named.end_fraction if end_fraction is None else end_fraction
    if peak <= 0:
        raise ConfigError(f"learning_rate: expected more than 0, got {peak}")
    if not 0 <= warmup < 1:
        raise ConfigError(f"warmup_fraction: expected 0 ≤ x < 1, got {warmup}")
    if not 0 <= end <= 1:
        raise ConfigError(f"end_fraction: expected 0 ≤ x ≤ 1, got {end}")
    if end == 0 and named.end_fraction > 0:
        raise ConfigError(f"end_fraction: {name!r} never reaches 0; expected more, such as 0.01")
    # What is said for another schedule is only checked for being a share.
    most = 1 - warmup if name == "wsd" else 1.0
    if not 0 <= cooldown_fraction <= most + 1e-9:
        raise ConfigError(
            f"cooldown_fraction: expected 0 ≤ x ≤ {most:g}, what the warm-up leaves, "
            f"got {cooldown_fraction}"
        )
    at = [share for share, _ in pieces]
    if at != sorted(set(at)) or not all(0 < share < 1 for share in at):
        raise ConfigError(f"pieces: expected shares 0 < x < 1 that rise, got {tuple(at)}")
    if not all(factor > 0 for _, factor in pieces):
        raise ConfigError(f"pieces: expected factors above 0, got {tuple(pieces)}")
    total = max(updates, 1)
    shape = ScheduleShape(
        peak=peak,
        end=end,
        total=total,
        # One update is left at least, or a short run would never reach what comes after.
        warmup=min(round(warmup * total), total - 1),
        cooldown=round(cooldown_fraction * total),
        pieces=tuple(pieces),
    )
    schedule = named.make(shape)
    if named.rises or not shape.warmup:
        return schedule
    return optax.schedules.join_schedules(
        [optax.schedules.linear_schedule(0.0, peak, shape.warmup), schedule], [shape.warmup]
    )


def _constant(shape: ScheduleShape) -> optax.Schedule:
    return optax.schedules.constant_schedule(shape.peak)


def _linear(shape: ScheduleShape) -> optax.Schedule:
    return optax.schedules.linear_schedule(shape.peak, shape.end * shape.peak, shape.rest)


def _cosine(shape: ScheduleShape) -> optax.Schedule:
    return optax.schedules.cosine_decay_schedule(shape.peak, shape.rest, alpha=shape.end)


def _exponential(shape: ScheduleShape) -> optax.Schedule:
    return optax.schedules.exponential_decay(
        shape.peak, shape.rest, shape.end, end_value=shape.end * shape.peak
    )


def _piecewise(shape: ScheduleShape) -> optax.Schedule:
    factors: dict[int, float] = {}
    for share, factor in shape.pieces:
        # The first update with the factor; in a short run two pieces may fall on one.
        at = max(round(share * shape.total) - shape.warmup, 0)
        factors[at] = factors.get(at, 1.0) * factor
    return optax.schedules.piecewise_constant_schedule(shape.peak, factors)


def _onecycle(shape: ScheduleShape) -> optax.Schedule:
    if shape.total < 2:
        return _constant(shape)
    return optax.schedules.cosine_onecycle_schedule(
        shape.total,
        shape.peak,
        # Half an update more: optax cuts to a whole number what is a hair below one.
        pct_start=(max(shape.warmup, 1) + 0.5) / shape.total,
        div_factor=_ONECYCLE_START,
        final_div_factor=1 / (_ONECYCLE_START * shape.end),
    )


def _wsd(shape: ScheduleShape) -> optax.Schedule:
    cooldown = min(shape.cooldown, shape.rest)
    if not cooldown:
        return _constant(shape)
    fall = optax.schedules.linear_schedule(shape.peak, shape.end * shape.peak, cooldown)
    return optax.schedules.join_schedules([_constant(shape), fall], [shape.rest - cooldown])


SCHEDULES: Final[Mapping[str, _Named]] = {
    "constant": _Named(make=_constant),
    "linear": _Named(make=_linear),
    "cosine": _Named(make=_cosine),
    "warmup_cosine": _Named(make=_cosine, warmup_fraction=0.1),
    "exponential": _Named(make=_exponential, end_fraction=0.01),
    "piecewise": _Named(make=_piecewise),
    "onecycle": _Named(make=_onecycle, warmup_fraction=0.3, end_fraction=4e-6, rises=True),
    "wsd": _Named(make=_wsd, warmup_fraction=0.1),
}
