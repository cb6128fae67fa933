from __future__ import annotations

import math

import pytest

from maas_sdk.errors import ConfigError
from maas_sdk.training.early_stopping import EarlyStopping, StoppingVerdict, judge


def after(config: EarlyStopping, *values: float) -> StoppingVerdict:
    verdict = StoppingVerdict()
    for step, value in enumerate(values, start=1):
        verdict = judge(config, verdict, step=step, value=value)
    return verdict


def test_the_best_is_the_least_or_the_greatest() -> None:
    """By mode; an equal value is no progress."""
    values = (0.5, 0.3, 0.4, 0.3)
    assert after(EarlyStopping(), *values) == StoppingVerdict(best=0.3, best_step=2, waited=2)
    assert after(EarlyStopping(mode="max"), *values) == StoppingVerdict(
        best=0.5, best_step=1, waited=3
    )


def test_a_little_better_is_not_better() -> None:
    """Progress is more than min_delta, measured from the best and not from the last."""
    config = EarlyStopping(min_delta=0.1)
    assert after(config, 1.0, 0.95, 0.91) == StoppingVerdict(best=1.0, best_step=1, waited=2)
    assert after(config, 1.0, 0.95, 0.89) == StoppingVerdict(best=0.89, best_step=3)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_never_wins(mode: str, bad: float) -> None:
    """Not as the first value, and not later; it counts as an evaluation without progress."""
    config = EarlyStopping(mode=mode, patience=2)  # type: ignore[arg-type]
    assert after(config, bad) == StoppingVerdict(waited=1)
    assert after(config, bad, 0.5, bad) == StoppingVerdict(best=0.5, best_step=2, waited=1)
    assert after(config, bad, bad).stop(config)


def test_patience_is_counted_in_evaluations() -> None:
    """So many in a row without progress end the run; progress starts the count again."""
    config = EarlyStopping(patience=2)
    assert not after(config, 1.0, 2.0).stop(config)
    assert after(config, 1.0, 2.0, 2.0).stop(config)
    assert not after(config, 1.0, 2.0, 0.5, 2.0).stop(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "best"}, "mode is 'min' or 'max', got 'best'"),
        ({"patience": 0}, "patience must be 1 or more, got 0"),
        ({"min_delta": -1.0}, r"min_delta must be 0 or more, got -1\.0"),
        ({"min_delta": math.nan}, "min_delta must be 0 or more, got nan"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    """Each with what was expected."""
    with pytest.raises(ConfigError, match=message):
        EarlyStopping(**settings)  # type: ignore[arg-type]
