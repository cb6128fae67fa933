"""An evaluation as people read it: a table for a terminal, a page with pictures for a browser.

The rule it keeps: terminal, page and JSON say the same figures, out of the one list in ``figures``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from maas_sdk.charts.curves import Curve, curve_chart, scatter_chart
from maas_sdk.charts.heat_map import heat_map
from maas_sdk.charts.page import card, document, legend, section, table
from maas_sdk.charts.plots import histogram
from maas_sdk.charts.quantities import count, data_size, duration, percent, round_duration
from maas_sdk.evaluate.accuracy import Classification
from maas_sdk.evaluate.evaluation import Evaluation
from maas_sdk.evaluate.language import Language
from maas_sdk.evaluate.regression import Regression

__all__ = ["Figure", "compare_page", "compare_table", "evaluation_page", "figures", "text_table"]

# A confusion matrix of more classes than this is no picture.
_MAX_CLASSES_DRAWN = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One line of a report."""

    name: str
    # As people read it, with its unit.
    shown: str
    # None where it could not be had.
    value: float | None
    # Whether more of it is better; None where it is neither.
    higher_is_better: bool | None


def figures(found: Evaluation) -> tuple[Figure, ...]:
    """Everything that was found, in the order of a report."""
    memory, cost = found.memory, found.cost
    lines = [
        *_quality(found.quality),
        _line("latency of one row, p50", found.latency.p50_s, duration, False),
        _line("latency of one row, p90", found.latency.p90_s, duration, False),
        _line("latency of one row, p99", found.latency.p99_s, duration, False),
        _line("first call", found.latency.first_s, duration, False),
        _line(f"rows/s in batches of {found.batch_size}", found.rows_per_s, count, True),
        _line("peak memory of this process", memory.process_peak_bytes, _bytes, False),
        _line("of which while it answered", memory.process_growth_bytes, _bytes, False),
        _line("peak memory of its devices", memory.device_peak_bytes, _bytes, False),
        _line("flop per row", None if cost is None else cost.flops_per_row, _flops, None),
        _line("MFU", None if cost is None else cost.mfu, percent, True),
    ]
    return tuple(line for line in lines if line.value is not None)


def _quality(quality: Classification | Regression | Language) -> list[Figure]:
    if isinstance(quality, Classification):
        return [
            _line("rows", quality.rows, count, None),
            _line("accuracy", quality.accuracy, percent, True),
            _line("F1, mean of classes", quality.f1, percent, True),
            _line("area under ROC", quality.auc, _plain, True),
            _line("log loss", quality.log_loss, _plain, False),
            _line("calibration error", quality.calibration_error, percent, False),
        ]
    if isinstance(quality, Regression):
        return [
            _line("rows", quality.rows, count, None),
            _line("mean squared error", quality.mse, _plain, False),
            _line("root of it", quality.rmse, _plain, False),
            _line("mean absolute error", quality.mae, _plain, False),
            _line("largest error", quality.max_error, _plain, False),
            _line("R²", quality.r2, _plain, True),
        ]
    return [
        _line("tokens", quality.tokens, count, None),
        _line("cross-entropy, nats", quality.cross_entropy, _plain, False),
        _line("perplexity", quality.perplexity, _plain, False),
        _line("bits per token", quality.bits_per_token, _plain, False),
        _line("next token right", quality.accuracy, percent, True),
    ]


def _line(name: str, value: float | None, words: object, better: bool | None) -> Figure:
    assert callable(words)
    shown = "–" if value is None else str(words(value))
    return Figure(name=name, shown=shown, value=value, higher_is_better=better)


def _plain(value: float) -> str:
    return f"{value:.4g}"


def _bytes(value: float) -> str:
    return data_size(int(value))


def _flops(value: float) -> str:
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}flop"
    return f"{value:.0f} flop"


def text_table(found: Evaluation) -> str:
    """The figures for a terminal: a name and a value per line."""
    return _aligned(
        [(found.name, found.where), *((line.name, line.shown) for line in figures(found))]
    )


def compare_table(first: Evaluation, second: Evaluation) -> str:
    """Two evaluations side by side, and by how much the second is more than the first."""
    return _aligned([("", first.name, second.name, "change"), *_side_by_side(first, second)])


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 or len(row) == 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _side_by_side(first: Evaluation, second: Evaluation) -> list[tuple[str, str, str, str]]:
    left = {line.name: line for line in figures(first)}
    right = {line.name: line for line in figures(second)}
    return [
        (
            name,
            left[name].shown if name in left else "–",
            right[name].shown if name in right else "–",
            _change(left.get(name), right.get(name)),
        )
        for name in [*left, *(name for name in right if name not in left)]
    ]


def _change(first: Figure | None, second: Figure | None) -> str:
    """``+3.2 % worse``; nothing where there are not two figures that could be better or worse."""
    if first is None or second is None or not first.value or second.value is None:
        return ""
    share = second.value / first.value - 1
    if first.higher_is_better is None or abs(share) < 5e-4:
        return "" if first.higher_is_better is None else "same"
    better = (share > 0) == first.higher_is_better
    return f"{100 * share:+.1f} % {'better' if better else 'worse'}"


def evaluation_page(found: Evaluation) -> str:
    """One evaluation as an HTML page that needs nothing else."""
    tiles = "".join(
        f"<div><dt>{escape(line.name)}</dt><dd>{escape(line.shown)}</dd></div>"
        for line in _headlines(found)
    )
    body = (
        f'<p class="mark-name">maas evaluate</p><h1>{escape(found.name)}</h1>'
        f'<p class="lead">{escape(found.task)}, {escape(found.where)}.</p>'
        f'<dl class="figures">{tiles}</dl>'
        + section("Figures", "What was measured.", card(_figure_table(found)))
        + section("How right", "On rows that it was judged by.", _quality_pictures(found))
        + section("How fast", "Calls of one row, one after the other.", card(_latency(found)))
    )
    return document(f"{found.name}: evaluation", body)


def compare_page(first: Evaluation, second: Evaluation) -> str:
    """Two evaluations side by side as an HTML page that needs nothing else."""
    body = (
        '<p class="mark-name">maas evaluate</p>'
        f"<h1>{escape(first.name)} beside {escape(second.name)}</h1>"
        + section(
            "Figures",
            "The change is of the second against the first.",
            card(table(("", first.name, second.name, "change"), _side_by_side(first, second))),
        )
        + "".join(
            section(found.name, found.where, _quality_pictures(found), card(_latency(found)))
            for found in (first, second)
        )
    )
    return document(f"{first.name} beside {second.name}", body)


def _headlines(found: Evaluation) -> list[Figure]:
    lines = figures(found)
    quality = [line for line in lines if line.higher_is_better is not None][:2]
    speed = [line for line in lines if line.name.endswith("p50") or line.name.startswith("rows/s")]
    return [*quality, *speed]


def _figure_table(found: Evaluation) -> str:
    notes = "" if found.cost is None else f"MFU against: {found.cost.ceiling_source}."
    return table((), [(line.name, line.shown) for line in figures(found)]) + (
        f'<p class="quiet">{escape(notes)}</p>' if notes else ""
    )


def _quality_pictures(found: Evaluation) -> str:
    quality = found.quality
    if isinstance(quality, Classification):
        return _classification_pictures(quality)
    if isinstance(quality, Regression):
        return card(
            scatter_chart(
                [Curve(name="target", points=found.pairs)],
                title=f"Answers over targets, root mean squared error {quality.rmse:.4g}",
                x_label="target",
                y_label="answer",
                x_format=_plain,
                y_format=_plain,
            )
        )
    return card(table((), [(line.name, line.shown) for line in _quality(quality)]))


def _classification_pictures(quality: Classification) -> str:
    names = tuple(score.name for score in quality.classes)
    filled = [b for b in quality.calibration if b.rows]
    reliability = curve_chart(
        [
            Curve(name="perfect", points=((0.0, 0.0), (1.0, 1.0)), class_="second"),
            Curve(name="found", points=tuple((b.confidence, b.accuracy) for b in filled)),
        ],
        title=f"Reliability: calibration error {percent(quality.calibration_error)}",
        x_label="confidence",
        y_label="share right",
        x_format=lambda value: percent(value, digits=0),
        y_format=lambda value: percent(value, digits=0),
        y_low=0.0,
        y_high=1.0,
    )
    per_class = table(
        ("class", "rows", "precision", "recall", "F1"),
        [
            (s.name, count(s.support), percent(s.precision), percent(s.recall), percent(s.f1))
            for s in quality.classes
        ],
    )
    drawn = ""
    if len(names) <= _MAX_CLASSES_DRAWN:
        matrix = heat_map(quality.confusion, title="Confusion matrix", kind="class", names=names)
        drawn = card(
            "<h3>Confusion matrix</h3>",
            legend([("right", "accent-key"), ("wrong", "wrong-key")]),
            f'<div class="scroll">{matrix}</div>',
        )
    return (
        f'<div class="pair">{drawn}'
        + card(
            "<h3>Does it know how sure it may be?</h3>",
            legend([("its answers", "accent-key"), ("perfect", "second-key")]),
            reliability,
        )
        + "</div>"
        + card("<h3>Class by class</h3>", per_class)
    )


def _latency(found: Evaluation) -> str:
    latency = found.latency
    picture = histogram(
        latency.samples_s,
        title=f"Latency of {latency.calls} calls: median {duration(latency.p50_s)}",
        x_label="latency of one row",
        x_format=duration,
        tick_format=round_duration,
        marks=(("p50", latency.p50_s), ("p99", latency.p99_s)),
    )
    return f'<div class="scroll">{picture}</div>'
