"""The schedule of a pipeline, in numbers and as a table."""

from __future__ import annotations

import pytest

from maas_sdk.errors import ConfigError
from maas_sdk.sharding.schedule import bubble_share, schedule


@pytest.mark.parametrize(
    ("stages", "microbatches", "share"), [(1, 1, 0), (1, 8, 0), (4, 1, 3 / 4), (4, 12, 3 / 15)]
)
def test_the_bubble_is_what_the_table_leaves_empty(
    stages: int, microbatches: int, share: float
) -> None:
    """(S-1)/(M+S-1), and that is the share of cells without a microbatch."""
    plan = schedule(blocks=stages, stages=stages, microbatches=microbatches)
    cells = [plan.at(stage, tick) for stage in range(stages) for tick in range(plan.ticks)]
    assert bubble_share(stages, microbatches) == plan.bubble_share == share
    assert cells.count(None) / len(cells) == share


def test_every_microbatch_meets_every_stage_once_and_in_order() -> None:
    """A stage's work of one tick is the next stage's input of the next."""
    plan = schedule(blocks=6, stages=3, microbatches=5)
    for stage in range(3):
        found = [plan.at(stage, tick) for tick in range(plan.ticks)]
        assert [m for m in found if m is not None] == list(range(5))
        assert found.index(0) == stage


def test_the_table_can_be_read() -> None:
    """A line per stage, a column per tick, and the sum below."""
    assert schedule(blocks=8, stages=2, microbatches=3).table().splitlines() == [
        "tick     0 1 2 3",
        "stage 0  0 1 2 ·",
        "stage 1  · 0 1 2",
        "4 blocks a stage, 3 microbatches, 4 ticks forward and 4 backward, bubble 25.0%",
    ]
    assert schedule(blocks=8, stages=2, microbatches=3).to_dict()["ticks"] == 4


def test_what_cannot_be_is_refused() -> None:
    """Numbers below one, and blocks that do not divide, with what would."""
    with pytest.raises(ConfigError, match="microbatches: expected 1 or more, got 0"):
        bubble_share(4, 0)
    with pytest.raises(ConfigError, match="stages: expected 1 or more, got 0"):
        schedule(blocks=4, stages=0, microbatches=1)
    with pytest.raises(
        ConfigError, match=r"6 blocks cannot be divided into 4 stages; .* into 1, 2, 3, 6"
    ):
        schedule(blocks=6, stages=4, microbatches=1)
