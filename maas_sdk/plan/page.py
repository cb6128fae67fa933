"""Reports of plans: a table as text, and a page with pictures.

The rule it keeps: what the compiler said and what is estimated stand in different columns, and a
layout without a figure has a reason in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from maas_sdk.charts.page import card, document, legend, section, table
from maas_sdk.charts.plots import Bar, Segment, stacked_bars
from maas_sdk.charts.quantities import count, data_size, duration, percent, round_duration
from maas_sdk.plan.calibration import errors
from maas_sdk.plan.planner import Comparison, StepPlan

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
        f"yes, {percent(one.needed_bytes / one.limit_bytes, digits=0)}",
        data_size(round(one.moved_bytes)),
        duration(timed.step_s),
        percent(timed.mfu, digits=1),
        timed.bound,
    )


def text_table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return columns of equal width, the first left-aligned, the others right-aligned."""
    lines = [list(heads), *(list(row) for row in body)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def collective_rows(one: StepPlan) -> list[tuple[str, ...]]:
    """Return (what, along, devices, times a step, sent per chip), largest traffic first."""
    ordered = sorted(one.collectives, key=lambda c: -c["moved_bytes"])
    return [
        (
            c["kind"],
            "+".join(c["axes"]) if c["axes"] else "other groups",
            str(c["group_size"]),
            count(c["times"]),
            data_size(round(c["moved_bytes"])),
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
    parts = [
        f"<h1>{escape(title)}</h1>",
        section(
            "Layouts",
            f"Memory and collectives are the TPU compiler's, step and MFU an estimate. "
            f"Recommended: {comparison.reason}.",
            card(table(COLUMNS, rows(comparison), numbers_from=2)),
        ),
    ]
    shown = [one for one in comparison.plans if one.nbytes]
    if shown:
        parts.append(
            section(
                "Memory of one chip",
                "Arguments by what they are for, then what the compiler adds: temporaries hold "
                "activations, gathered weights and gradients.",
                card(
                    legend(
                        (name, class_) for name, class_ in _CLASSES.items() if _any(shown, name)
                    ),
                    stacked_bars(
                        [_bar(one) for one in shown],
                        title="Bytes of one chip by layout and kind",
                        x_label="bytes of one chip",
                        format_=lambda value: data_size(round(value)),
                        tick_format=lambda value: data_size(round(value)),
                    ),
                ),
            )
        )
    timed = [one for one in comparison.plans if one.estimate is not None]
    if timed:
        parts.append(_time_section(timed))
    if best is not None and best.collectives:
        heads = ("collective", "along", "devices", "times per step", "sent per chip")
        parts.append(
            section(
                f"Collectives of {best.label}",
                "Read from the compiled program, loops counted as often as they turn.",
                card(table(heads, collective_rows(best), numbers_from=2)),
            )
        )
    parts.append(
        section(
            "How far off the estimate is",
            "The same roofline for published training runs.",
            card(table(("run", "published", "estimated", "off by", ""), calibration_rows())),
        )
    )
    failed = [one for one in comparison.plans if one.error]
    if failed:
        parts.append(
            section(
                "Not compiled",
                "What the compiler or the model said.",
                card(table(("layout", "reason"), [(p.label, p.error or "") for p in failed])),
            )
        )
    return document(title, "\n".join(parts))


def _time_section(timed: Sequence[StepPlan]) -> str:
    drawn: list[Bar] = []
    for one in timed:
        assert one.estimate is not None
        parts = one.estimate
        core = max(parts.core_s, parts.hbm_s)
        named = (
            Segment(name="products", value=parts.matmul_s, class_="own-4"),
            Segment(name="waiting for memory", value=core - parts.matmul_s, class_="own-2"),
            Segment(name="links", value=parts.step_s - core, class_="shared-1"),
        )
        label = f"{one.label}, {percent(parts.mfu, digits=1)} of the peak"
        drawn.append(Bar(name=label, segments=tuple(s for s in named if s.value > 0)))
    return section(
        "Where the time goes",
        "Seconds of one step, estimated, and the share of the chips' peak (MFU).",
        card(
            legend([("products", "own-4"), ("waiting for memory", "own-2"), ("links", "shared-1")]),
            stacked_bars(
                drawn,
                title="Seconds of one step by layout and part",
                x_label="seconds of one step, estimated",
                format_=duration,
                tick_format=round_duration,
            ),
        ),
    )


def _any(shown: Sequence[StepPlan], kind: str) -> bool:
    return any(one.nbytes.get(kind) for one in shown)


def _bar(one: StepPlan) -> Bar:
    kinds = {**one.nbytes}
    if not one.fits:
        # All that is known is what the compiler would have to place.
        kinds["temporaries"] = max(0, one.needed_bytes - sum(kinds.values()))
    return Bar(
        name=one.label if one.fits else f"{one.label} (does not fit)",
        segments=tuple(
            Segment(name=name, value=value, class_=_CLASSES.get(name, "shared-2"))
            for name, value in kinds.items()
            if value
        ),
    )
