"""Report of an evaluation: a table for a terminal, a page with pictures for a browser.

The rule it keeps: terminal, page and JSON show the same figures, from the one list in ``figures``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from maas_sdk.charts.columns import columns
from maas_sdk.charts.curves import Curve
from maas_sdk.charts.quantities import count, data_size, duration, percent
from maas_sdk.evaluate.accuracy import Classification
from maas_sdk.evaluate.evaluation import Evaluation
from maas_sdk.evaluate.language import Language
from maas_sdk.evaluate.regression import Regression
from maas_sdk.reports.page import fill

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
    """Return all results, in the order of a report."""
    memory, cost = found.memory, found.cost
    lines = [
        *_quality(found.quality),
        _line("latency of one row, p50", found.latency.p50_s, duration, False),
        _line("latency of one row, p90", found.latency.p90_s, duration, False),
        _line("latency of one row, p99", found.latency.p99_s, duration, False),
        _line("first call", found.latency.first_s, duration, False),
        _line(f"rows/s in batches of {found.batch_size}", found.rows_per_s, count, True),
        _line("peak memory of this process", memory.process_peak_bytes, data_size, False),
        _line("of which while it answered", memory.process_growth_bytes, data_size, False),
        _line("peak memory of its devices", memory.device_peak_bytes, data_size, False),
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


def _flops(value: float) -> str:
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}flop"
    return f"{value:.0f} flop"


def text_table(found: Evaluation) -> str:
    """Return the figures for a terminal: a name and a value per line."""
    rows = [(found.name, found.where), *_rows(figures(found))]
    return "\n".join(columns(rows, left=(0, 1)))


def compare_table(first: Evaluation, second: Evaluation) -> str:
    """Return two evaluations side by side, with the relative change."""
    heads = ("", first.name, second.name, "change")
    return "\n".join(columns([heads, *_side_by_side(first, second)]))


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
    """Format a change as ``+3.2 % worse``; nothing where figures cannot be compared."""
    if first is None or second is None or not first.value or second.value is None:
        return ""
    share = second.value / first.value - 1
    if first.higher_is_better is None or abs(share) < 5e-4:
        return "" if first.higher_is_better is None else "same"
    better = (share > 0) == first.higher_is_better
    return f"{100 * share:+.1f} % {'better' if better else 'worse'}"


def evaluation_page(found: Evaluation) -> str:
    """Return one evaluation as an HTML page that needs nothing else."""
    return _page([found])


def compare_page(first: Evaluation, second: Evaluation) -> str:
    """Return two evaluations side by side as an HTML page that needs nothing else."""
    return _page([first, second], changes=_side_by_side(first, second))


def _page(found: Sequence[Evaluation], changes: Sequence[Sequence[str]] = ()) -> str:
    return fill(
        "evaluate/report.html",
        evaluations=found,
        changes=changes,
        figures=lambda one: _rows(figures(one)),
        headlines=lambda one: _rows(_headlines(one)),
        quality_figures=lambda one: _rows(_quality(one.quality)),
        reliability=_reliability,
        class_rows=_class_rows,
        most_classes=_MAX_CLASSES_DRAWN,
    )


def _rows(lines: Sequence[Figure]) -> list[tuple[str, str]]:
    return [(line.name, line.shown) for line in lines]


def _headlines(found: Evaluation) -> list[Figure]:
    lines = figures(found)
    quality = [line for line in lines if line.higher_is_better is not None][:2]
    speed = [line for line in lines if line.name.endswith("p50") or line.name.startswith("rows/s")]
    return [*quality, *speed]


def _reliability(quality: Classification) -> list[Curve]:
    filled = [(one.confidence, one.accuracy) for one in quality.calibration if one.rows]
    return [Curve("perfect", [(0.0, 0.0), (1.0, 1.0)], "second"), Curve("found", filled)]


def _class_rows(quality: Classification) -> list[tuple[str, ...]]:
    return [
        (s.name, count(s.support), percent(s.precision), percent(s.recall), percent(s.f1))
        for s in quality.classes
    ]
