from __future__ import annotations

import io
import sys

import pytest

from maas_sdk.errors import DependencyError
from maas_sdk.training.hooks import EvalRecord, Skipped, Started, StepRecord
from maas_sdk.training.run.progress import progress_bar

STARTED = Started(
    step=0, steps=40, batch_size=8, steps_per_epoch=20, devices=1, warnings=("a rule is idle",)
)
TRAINED = StepRecord(
    step=20, steps=40, metrics={"loss": 0.123456}, rows_per_s=12345.6, step_time_s=0.01
)
JUDGED = EvalRecord(step=20, epoch=1, train={}, eval={"loss": 0.5}, rows_per_s=1.0, wall_s=1.0)


def test_the_bar_shows_loss_rate_and_time_left() -> None:
    """And what was skipped and what sharding had to say; on the file that it is given."""
    screen = io.StringIO()
    with progress_bar(True, file=screen) as (hook,):
        for record in (STARTED, Skipped(step=3, count=2), JUDGED, TRAINED):
            hook(record)
    shown = screen.getvalue()
    for words in ("20/40", "loss 0.1235, held-out 0.5, 2 skipped", "12,346 rows/s", "a rule is"):
        assert words in shown, shown


def test_nothing_is_drawn_where_nobody_looks() -> None:
    """By default only a terminal gets a bar, and False gets none."""
    for show in (None, False):
        screen = io.StringIO()
        with progress_bar(show, file=screen) as hooks:
            assert hooks == ()
        assert screen.getvalue() == ""


def test_an_absent_rich_is_told_only_to_who_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the line that mends it; a terminal without it just has no bar."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setitem(sys.modules, "rich", None)
    with (
        pytest.raises(DependencyError, match=r"pip install 'maas-sdk\[cli\]'"),
        progress_bar(True, file=io.StringIO()),
    ):
        pass
    with progress_bar(None, file=Terminal()) as hooks:
        assert hooks == ()
