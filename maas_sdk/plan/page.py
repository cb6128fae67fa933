"""Reports of plans: a table as text, and a page with pictures.

The rule it keeps: the compiler's figures and the estimates are in different columns, and a layout
without a figure has a reason in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from maas_sdk.charts.columns import columns
from maas_sdk.charts.plots import Bar, Segment
from maas_sdk.charts.quantities import count, data_size, duration, percent, round_percent
from maas_sdk.plan.calibration import errors
from maas_sdk.plan.planner import Comparison, StepPlan
from maas_sdk.plan.roofline import Estimate
from maas_sdk.reports.page import fill

__all__ = ["COLUMNS", "calibration_rows", "collective_rows", "html_page", "rows", "text_table"]

COLUMNS: Final = (
    "layout",
    "mesh",
    "per chip",
    "fits",
    "sent per chip",
    "step",
    "MFU",
    "bound by",
)

_CLASSES: Final = {
    "weights": "own-5",
    "optimizer": "own-3",
    "cache": "own-4",
    "batch": "shared-1",
    "other": "shared-2",
    "temporaries": "own-1",
    "code": "shared-3",
}


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return a row of ``COLUMNS`` per plan."""
    best = comparison.recommended
    return [_row(one, one is best) for one in comparison.plans]


def _row(one: StepPlan, recommended: bool) -> tuple[str, ...]:
    mesh = " × ".join(f"{name}={size}" for name, size in one.axes.items())
    name = f"→ {one.label}" if recommended else one.label
    if one.fits is None:
        return (name, mesh, "-", "error", "-", "-", "-", "-")
    if not one.fits or one.estimate is None:
        needs = data_size(one.needed_bytes) if one.needed_bytes else "too much"
        return (name, mesh, needs, "no", "-", "-", "-", "-")
    timed = one.estimate
    return (
        name,
        mesh,
        data_size(one.needed_bytes),
        f"yes, {round_percent(one.needed_bytes / one.limit_bytes)}",
        data_size(one.moved_bytes),
        duration(timed.step_s),
        percent(timed.mfu, digits=1),
        timed.bound,
    )


def text_table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return columns of equal width, the first left-aligned, the others right-aligned."""
    return "\n".join(columns([heads, *body]))


def collective_rows(one: StepPlan) -> list[tuple[str, ...]]:
    """Return (what, along, devices, times a step, sent per chip), largest traffic first."""
    ordered = sorted(one.collectives, key=lambda c: -c["moved_bytes"])
    return [
        (
            c["kind"],
            "+".join(c["axes"]) if c["axes"] else "other groups",
            str(c["group_size"]),
            count(c["times"]),
            data_size(c["moved_bytes"]),
        )
        for c in ordered
    ]


def calibration_rows() -> list[tuple[str, ...]]:
    """Return (run, published, estimated, off by, use) for every known run."""
    return [
        (
            one.run.name,
            percent(one.run.mfu, digits=1),
            percent(one.estimated_mfu, digits=1),
            f"{100 * one.relative:+.1f} %",
            "fitted" if one.run.fitted else "held out",
        )
        for one in errors()
    ]


def html_page(title: str, comparison: Comparison) -> str:
    """Return a page: the table, memory and time, collectives, and the estimate's errors."""
    best = comparison.recommended
    shown = [one for one in comparison.plans if one.nbytes]
    found = {name for one in shown for name, nbytes in one.nbytes.items() if nbytes}
    return fill(
        "plan/page.html",
        title=title,
        comparison=comparison,
        columns=COLUMNS,
        rows=rows(comparison),
        memory=[_memory(one) for one in shown],
        kinds=[kind for kind in _CLASSES.items() if kind[0] in found],
        time=[_time(one, one.estimate) for one in comparison.plans if one.estimate is not None],
        collectives=[] if best is None else collective_rows(best),
        calibration=calibration_rows(),
        failed=[(one.label, one.error) for one in comparison.plans if one.error],
    )


def _time(one: StepPlan, parts: Estimate) -> Bar:
    core = max(parts.core_s, parts.hbm_s)
    named = (
        Segment("products", parts.matmul_s, "own-4"),
        Segment("waiting for memory", core - parts.matmul_s, "own-2"),
        Segment("links", parts.step_s - core, "shared-1"),
    )
    name = f"{one.label}, {percent(parts.mfu, digits=1)} of the peak"
    return Bar(name, [segment for segment in named if segment.value > 0])


def _memory(one: StepPlan) -> Bar:
    kinds = {**one.nbytes}
    if not one.fits:
        # All that is known is what the compiler would have to place.
        kinds["temporaries"] = max(0, one.needed_bytes - sum(kinds.values()))
    return Bar(
        one.label if one.fits else f"{one.label} (does not fit)",
        [Segment(kind, v, _CLASSES.get(kind, "shared-2")) for kind, v in kinds.items() if v],
    )
