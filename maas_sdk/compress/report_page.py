"""HTML report of a quantization: savings, cost, and both by layer.

The page, whose words are in ``report_page.html``, draws the figures that the report holds and works
out none of its own; of what was not measured there is no picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from maas_sdk.charts.plots import Bar, Segment
from maas_sdk.charts.quantities import data_size, percent, ratio
from maas_sdk.compress.program.report import LayerReport, QuantizationReport
from maas_sdk.reports.page import fill

__all__ = ["report_page"]

_HEADS: Final = ("weight", "shape", "format", "bits", "stored", "SQNR", "drop alone")

# Bars of more layers than this are no picture; the largest are drawn, the table has all.
_DRAWN: Final = 24


def report_page(report: QuantizationReport) -> str:
    """Return the whole page, with pictures in it; it needs no other file."""
    layers = _largest(report.layers)
    costly = sorted(report.layers, key=lambda layer: -(layer.drop or 0))[:_DRAWN]
    return fill(
        "compress/report_page.html",
        report=report,
        heads=_HEADS,
        most=_DRAWN,
        headlines=_headlines(report),
        nbytes=[_stored(layer) for layer in layers] if any(x.bytes_before for x in layers) else (),
        precision=_bars((layer.name, layer.sqnr_db) for layer in layers),
        latency=[bar for size in report.latency_s for bar in _before_and_after(report, size)],
        drops=_bars((layer.name, layer.drop) for layer in costly),
    )


def _headlines(report: QuantizationReport) -> list[tuple[str, str]]:
    found = [
        ("stored", percent(report.ratio, digits=1)),
        ("in memory while served", data_size(report.bytes_memory)),
    ]
    if report.drop is not None and report.metric is not None:
        found.append((f"lost in {report.metric}", f"{report.drop:+.4f}"))
    if report.output_error is not None:
        found.append(("outputs differ by", percent(report.output_error)))
    return found


def _stored(layer: LayerReport) -> Bar:
    saved = max(0, layer.bytes_before - layer.bytes_stored)
    stored = Segment("stored", layer.bytes_stored, "own-4")
    return Bar(f"{layer.name}, {layer.format}", [stored, Segment("saved", saved, "shared-1")])


def _before_and_after(report: QuantizationReport, size: int) -> list[Bar]:
    pair = report.latency_s[size]
    faster = f"{report.recipe}, {ratio(pair.before / pair.after)} as fast"
    return [
        Bar(f"batch of {size}, {name}", [Segment(name, seconds, class_)])
        for name, seconds, class_ in (
            ("float", pair.before, "quiet"),
            (faster, pair.after, "accent"),
        )
    ]


def _bars(figures: Iterable[tuple[str, float | None]]) -> list[Bar]:
    """A bar of each figure that is known and above zero."""
    known = [(name, value) for name, value in figures if value is not None and value > 0]
    return [Bar(name, [Segment(name, value, "accent")]) for name, value in known]


def _largest(layers: Sequence[LayerReport]) -> list[LayerReport]:
    """Return the largest layers, as many as can be drawn, in the order of the program."""
    if len(layers) <= _DRAWN:
        return list(layers)
    least = sorted((layer.bytes_before for layer in layers), reverse=True)[_DRAWN - 1]
    return [layer for layer in layers if layer.bytes_before >= least][:_DRAWN]
