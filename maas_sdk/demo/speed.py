"""The report's sections on speed: the cold start, stage by stage, and the calls."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

from maas_sdk.charts import plots
from maas_sdk.charts.page import card, legend, section, table
from maas_sdk.charts.quantities import count, duration, ratio, round_duration, scientific
from maas_sdk.demo.result import Calls, quantile
from maas_sdk.deploy.coldstart import ColdStart, Stage

__all__ = ["calls_section", "cold_start_section"]

# Stages that every Python function goes through are grey; what the model adds is blue.
_SHARED: Final = ("shared-1", "shared-2", "shared-3")
_OWN: Final = ("own-1", "own-2", "own-3", "own-4", "own-5")


def _coloured(stages: Sequence[Stage], other: Sequence[Stage]) -> list[plots.Segment]:
    shared_names = {stage.name for stage in other}
    shared, own = iter(_SHARED * 3), iter(_OWN * 3)
    return [
        plots.Segment(
            name=stage.name,
            value=stage.duration_s,
            class_=next(shared if stage.name in shared_names else own),
        )
        for stage in stages
    ]


def cold_start_section(cold: ColdStart) -> str:
    """Ours beside an empty function, as stacked bars and as a table."""
    ours = _coloured(cold.function, cold.empty)
    colour = {segment.name: segment.class_ for segment in ours}
    empty = [
        plots.Segment(
            name=stage.name, value=stage.duration_s, class_=colour.get(stage.name, "shared-3")
        )
        for stage in cold.empty
    ]
    picture = plots.stacked_bars(
        [
            plots.Bar(name="this model", segments=tuple(ours)),
            plots.Bar(name="an empty function, started the same way", segments=tuple(empty)),
        ],
        title=f"Cold start: {duration(cold.function_s)} for this model, "
        f"{duration(cold.empty_s)} for an empty function",
        x_label="time since process start",
        format_=duration,
        tick_format=round_duration,
    )
    how = {
        "executable": "the model ran as compiled ahead of time",
        "program": "the model was compiled on the spot",
    }.get(cold.tier, f"tier {cold.tier}")
    in_empty = {stage.name: stage.duration_s for stage in cold.empty}
    rows = [
        (
            stage.name,
            duration(stage.duration_s),
            duration(in_empty[stage.name]) if stage.name in in_empty else "–",
        )
        for stage in cold.function
    ]
    rows.append(
        ("process start to first answer", duration(cold.function_s), duration(cold.empty_s))
    )
    return section(
        "Cold start",
        "From process start to the first correct answer over HTTP, through functions-framework. "
        f"Medians, stage by stage, of {cold.runs} interleaved starts; {how}.",
        card(
            legend([(segment.name, segment.class_) for segment in ours]),
            f'<div class="scroll">{picture}</div>',
            "<details><summary>The same as a table</summary>",
            table(("stage", "this model", "empty function"), rows),
            "</details>",
        ),
    )


def calls_section(calls: Calls) -> str:
    """Latency of single calls, rows per second, and how many answers were right."""
    p50, p99 = statistics.median(calls.latencies_s), quantile(calls.latencies_s, 0.99)
    latency = plots.histogram(
        calls.latencies_s,
        title=f"Latency of {len(calls.latencies_s)} calls of one row: median {duration(p50)}, "
        f"99 % within {duration(p99)}",
        x_label="latency of one call, as the client saw it",
        x_format=duration,
        tick_format=round_duration,
        marks=(("p50", p50), ("p99", p99)),
    )
    rates = plots.bars(
        [
            plots.Bar(
                name="one row per call",
                segments=(plots.Segment(name="", value=calls.single_rows_per_s, class_="quiet"),),
            ),
            plots.Bar(
                name="batched in frames",
                segments=(plots.Segment(name="", value=calls.batched_rows_per_s, class_="accent"),),
            ),
        ],
        title=f"{count(calls.single_rows_per_s)} rows per second one at a time, "
        f"{count(calls.batched_rows_per_s)} batched",
        format_=lambda value: f"{count(value)} rows/s",
    )
    rows = [
        ("answers checked", f"{calls.checked:,}"),
        ("different from the in-process model", f"{calls.differing:,}"),
        ("largest difference", scientific(calls.max_abs_error)),
        ("speed-up by batching", ratio(calls.batched_rows_per_s / calls.single_rows_per_s)),
    ]
    return section(
        "Calls",
        "The Python client on the same machine, one connection, HTTP on the loopback device.",
        card(
            "<h3>Latency, one row per call</h3>",
            f'<div class="scroll">{latency}</div>',
            class_="card wide",
        ),
        '<div class="pair">',
        card("<h3>Throughput</h3>", rates),
        card("<h3>Every answer checked</h3>", table((), rows)),
        "</div>",
    )
