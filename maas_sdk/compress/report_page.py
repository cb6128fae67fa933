"""HTML report of a quantization: savings, cost, and both by layer.

The rule it keeps: the page draws the figures that the report holds and works out none of its own;
of what was not measured there is no picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Final

from maas_sdk.charts.page import card, document, legend, section, table
from maas_sdk.charts.plots import Bar, Segment, bars, stacked_bars
from maas_sdk.charts.quantities import data_size, duration, percent, ratio, round_duration
from maas_sdk.compress.program.report import LayerReport, QuantizationReport

__all__ = ["report_page"]

_HEADS: Final = ("weight", "shape", "format", "bits", "stored", "SQNR", "drop alone")

# Bars of more layers than this are no picture; the largest are drawn, the table has all.
_DRAWN: Final = 24


def report_page(report: QuantizationReport) -> str:
    """Return the whole page, with pictures in it; it needs no other file."""
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(shown)}</dd></div>"
        for name, shown in _headlines(report)
    )
    body = (
        '<p class="mark-name">maas quantize</p>'
        f"<h1>{escape(report.recipe)}: {escape(data_size(report.bytes_before))} → "
        f"{escape(data_size(report.bytes_stored))}</h1>"
        + "".join(f'<p class="lead">{escape(line)}</p>' for line in report.summary())
        + f'<dl class="figures">{tiles}</dl>'
        + "".join(f'<p class="quiet">{escape(note)}.</p>' for note in report.notes)
        + _bytes(report)
        + _precision(report)
        + _latency(report)
        + _drops(report)
        + section(
            "Weights",
            "In the order of the program. Bits are those of one number, scales and codebooks "
            "included.",
            card(table(_HEADS, report.rows(), numbers_from=3)),
        )
    )
    return document(f"{report.recipe}: quantization", body)


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


def _bytes(report: QuantizationReport) -> str:
    layers = _largest(report.layers)
    if not any(layer.bytes_before for layer in layers):
        return ""
    rows = [
        Bar(
            name=f"{layer.name}, {layer.format}",
            segments=(
                Segment(name="stored", value=layer.bytes_stored, class_="own-4"),
                Segment(
                    name="saved",
                    value=max(0, layer.bytes_before - layer.bytes_stored),
                    class_="shared-1",
                ),
            ),
        )
        for layer in layers
    ]
    return section(
        "Bytes",
        "A bar is the weight before; what is coloured of it is stored." + _left_out(report),
        card(
            legend([("stored", "own-4"), ("saved", "shared-1")]),
            stacked_bars(
                rows,
                title="Bytes of each weight before, and of it stored",
                x_label="bytes",
                format_=_size,
                tick_format=_size,
            ),
        ),
    )


def _precision(report: QuantizationReport) -> str:
    rows = [
        _bar(layer.name, layer.sqnr_db)
        for layer in _largest(report.layers)
        if layer.sqnr_db is not None and layer.sqnr_db > 0
    ]
    return _bars(
        "Precision",
        "10 · log10(Σ w² / Σ (w - ŵ)²) of each weight: 6 dB more is half the error."
        + _left_out(report),
        rows,
        "Signal to quantization noise of each weight, in dB",
        lambda value: f"{value:.1f} dB",
    )


def _latency(report: QuantizationReport) -> str:
    rows = [
        _bar(f"batch of {size}, {name}", seconds, class_)
        for size, pair in report.latency_s.items()
        for name, seconds, class_ in (
            ("float", pair.before, "quiet"),
            (f"{report.recipe}, {ratio(pair.before / pair.after)} as fast", pair.after, "accent"),
        )
    ]
    return _bars(
        "Latency",
        f"Of one batch on {report.target}, by the compiled programs that would be served.",
        rows,
        "Seconds of one batch, before and after",
        lambda value: duration(value) if value else round_duration(0),
    )


def _drops(report: QuantizationReport) -> str:
    known = [layer for layer in report.layers if layer.drop is not None]
    rows = [
        _bar(layer.name, layer.drop)
        for layer in sorted(known, key=lambda layer: -(layer.drop or 0))[:_DRAWN]
        if layer.drop is not None and layer.drop > 0
    ]
    return _bars(
        "What each weight costs alone",
        f"Drop in {report.metric} with that weight alone in the coarsest format; weights that "
        "cost nothing are left out.",
        rows,
        f"Drop in {report.metric} by weight",
        lambda value: f"{value:.4f}",
    )


def _bars(
    title: str, lead: str, rows: Sequence[Bar], alt: str, format_: Callable[[float], str]
) -> str:
    if not rows:
        return ""
    return section(title, lead, card(bars(rows, title=alt, format_=format_, width=1080)))


def _bar(name: str, value: float, class_: str = "accent") -> Bar:
    return Bar(name=name, segments=(Segment(name=name, value=value, class_=class_),))


def _largest(layers: Sequence[LayerReport]) -> list[LayerReport]:
    """Return the largest layers, as many as can be drawn, in the order of the program."""
    if len(layers) <= _DRAWN:
        return list(layers)
    least = sorted((layer.bytes_before for layer in layers), reverse=True)[_DRAWN - 1]
    return [layer for layer in layers if layer.bytes_before >= least][:_DRAWN]


def _left_out(report: QuantizationReport) -> str:
    return f" The largest {_DRAWN} are drawn." if len(report.layers) > _DRAWN else ""


def _size(value: float) -> str:
    return data_size(round(value))
