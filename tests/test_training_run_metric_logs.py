from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from maas_sdk.errors import DependencyError
from maas_sdk.training.hooks import EvalRecord, Record, Skipped, Started, StepRecord
from maas_sdk.training.run.metric_logs import JSON_LINES, log_files, scalars


def started(step: int = 0) -> Started:
    return Started(step=step, steps=40, batch_size=8, steps_per_epoch=20, devices=1)


def trained(step: int, loss: float) -> StepRecord:
    return StepRecord(
        step=step,
        steps=40,
        metrics={"loss": loss, "grad_norm": 2.0, "learning_rate": 1e-3},
        rows_per_s=800.0,
        step_time_s=0.01,
    )


def judged(step: int) -> EvalRecord:
    return EvalRecord(step=step, epoch=1, train={}, eval={"loss": 0.5}, rows_per_s=1.0, wall_s=1.0)


def write(folder: Path, *records: Record) -> None:
    with log_files(folder, tensorboard=True) as hooks:
        for record in records:
            for hook in hooks:
                hook(record)


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / JSON_LINES).read_text().splitlines()]


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a folder."""
    # It has no types.
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    found = EventAccumulator(str(folder))
    found.Reload()
    return {
        name: [(event.step, event.value) for event in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


def test_lines_and_events_say_the_same(tmp_path: Path) -> None:
    """The same names and values in both; NaN is null in JSON, which knows none."""
    write(
        tmp_path,
        started(),
        trained(10, 0.75),
        Skipped(step=12, count=1),
        judged(20),
        trained(20, float("nan")),
    )
    first, skipped, evaluated, last = lines(tmp_path)
    assert first == {
        "step": 10,
        "learning/loss": 0.75,
        "learning/grad_norm": 2.0,
        "learning/current_learning_rate": 1e-3,
        "perf/step_time_seconds": 0.01,
        "perf/rows_per_second": 800.0,
    }
    assert skipped == {"step": 12, "perf/skipped_steps": 1.0}
    assert evaluated == {"step": 20, "evaluation/loss": 0.5}
    assert last["learning/loss"] is None
    shown = events(tmp_path)
    assert shown["evaluation/loss"] == [(20, 0.5)]
    assert shown["learning/loss"][0] == (10, 0.75)
    assert set(shown) == {name for line in lines(tmp_path) for name in line} - {"step"}


def test_a_run_that_is_taken_up_writes_over_what_it_does_again(tmp_path: Path) -> None:
    """What was written behind the checkpoint goes, a line that was cut by a kill too."""
    write(tmp_path, started(), trained(10, 0.9), trained(20, 0.8), trained(30, 0.7))
    with (tmp_path / JSON_LINES).open("a") as out:
        out.write('{"step": 31, "lear')
    write(tmp_path, started(20), trained(30, 0.6))
    assert [(line["step"], line["learning/loss"]) for line in lines(tmp_path)] == [
        (10, 0.9),
        (20, 0.8),
        (30, 0.6),
    ]
    assert [step for step, _ in events(tmp_path)["learning/loss"]] == [10, 20, 30]
    write(tmp_path, started(), trained(10, 0.5))
    assert [line["step"] for line in lines(tmp_path)] == [10]


def test_nothing_is_written_where_nothing_is_asked(tmp_path: Path) -> None:
    """No folder, no files; a start has nothing to draw."""
    with log_files(None, tensorboard=True) as hooks:
        assert hooks == ()
    assert scalars(started()) == {}


def test_an_absent_tensorboardx_is_told_with_the_line_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run does not begin; JSON lines alone need nothing."""
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with (
        pytest.raises(DependencyError, match=r"pip install 'maas-sdk\[tensorboard\]'"),
        log_files(tmp_path, tensorboard=True),
    ):
        pass
    with log_files(tmp_path, tensorboard=False) as hooks:
        assert len(hooks) == 1
