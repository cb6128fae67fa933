"""The demo's result as one HTML file: no script, no network, readable in light, dark and print.

``render`` is pure: the same result gives the same page. Its words are in ``report.html``.
"""

from __future__ import annotations

import statistics
from itertools import cycle
from typing import Final

from maas_sdk.charts.curves import Curve
from maas_sdk.charts.plots import Bar, Segment
from maas_sdk.charts.quantities import (
    count,
    data_size,
    duration,
    percent,
    round_percent,
    scientific,
)
from maas_sdk.demo.result import DemoResult, ModelVariant, checks, quantile
from maas_sdk.deploy.coldstart import ColdStart
from maas_sdk.reports.page import fill
from maas_sdk.tensors import Array

__all__ = ["common_mistakes", "render"]

# Stages that every Python function goes through are grey; what the model adds is blue.
_SHARED: Final = ("shared-1", "shared-2", "shared-3")
_OWN: Final = ("own-1", "own-2", "own-3", "own-4", "own-5")


def render(result: DemoResult) -> str:
    """Return the whole page."""
    calls, epochs = result.calls, result.training.epochs
    colours = _colours(result.cold_start)
    return fill(
        "demo/report.html",
        result=result,
        checks=checks(result),
        right=int(result.confusion.diagonal().sum()),
        rows=int(result.confusion.sum()),
        mistakes=[
            (f"a {true} taken for a {called}", times)
            for true, called, times in common_mistakes(result.confusion)
        ],
        colours=colours,
        starts=_starts(result.cold_start, colours),
        stages=_stages(result.cold_start),
        p50_s=statistics.median(calls.latencies_s),
        p99_s=quantile(calls.latencies_s, 0.99),
        rates=[
            Bar("one row per call", [Segment("", calls.single_rows_per_s, "quiet")]),
            Bar("batched in frames", [Segment("", calls.batched_rows_per_s, "accent")]),
        ],
        rate=lambda value: f"{count(value)} rows/s",
        losses=[
            Curve("training", [(e.number, e.train_loss) for e in epochs]),
            Curve("held-out", [(e.number, e.test_loss) for e in epochs], "second"),
        ],
        accuracies=[Curve("held-out", [(e.number, e.test_accuracy) for e in epochs], "second")],
        variants=[_variant(one, result.variants[0]) for one in result.variants],
    )


def common_mistakes(confusion: Array, most: int = 3) -> list[tuple[int, int, int]]:
    """Return (true class, predicted class, times) of mistakes, most frequent first.

    Args:
        confusion: [C, C] counts.
        most: how many to give.
    """
    wrong = [
        (i, j, int(times))
        for i, row in enumerate(confusion)
        for j, times in enumerate(row)
        if times and i != j
    ]
    return sorted(wrong, key=lambda mistake: -mistake[2])[:most]


def _colours(cold: ColdStart) -> dict[str, str]:
    """Return the colour class of each stage of our function, by its name."""
    shared_names = {stage.name for stage in cold.empty}
    shared, own = cycle(_SHARED), cycle(_OWN)
    return {
        stage.name: next(shared if stage.name in shared_names else own) for stage in cold.function
    }


def _starts(cold: ColdStart, colours: dict[str, str]) -> list[Bar]:
    """Return our start beside an empty function's."""
    return [
        Bar(name, [Segment(s.name, s.duration_s, colours.get(s.name, "shared-3")) for s in stages])
        for name, stages in (
            ("this model", cold.function),
            ("an empty function, started the same way", cold.empty),
        )
    ]


def _stages(cold: ColdStart) -> list[tuple[str, str, str]]:
    """Return (stage, ours, an empty function's), and the sum of each."""
    empty = {stage.name: duration(stage.duration_s) for stage in cold.empty}
    return [
        *((s.name, duration(s.duration_s), empty.get(s.name, "–")) for s in cold.function),
        ("process start to first answer", duration(cold.function_s), duration(cold.empty_s)),
    ]


def _variant(variant: ModelVariant, trained: ModelVariant) -> tuple[str, ...]:
    return (
        variant.name,
        percent(variant.accuracy),
        data_size(variant.nbytes),
        round_percent(variant.nbytes / trained.nbytes),
        "–" if variant.max_abs_error is None else scientific(variant.max_abs_error),
        "–" if variant.agreement is None else percent(variant.agreement),
    )
