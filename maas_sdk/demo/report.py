"""The demo's result as one HTML file: no script, no network, readable in light, dark and print.

``render`` is pure: the same result gives the same page. Everything that comes from outside is
escaped. Pictures come from ``charts``, their colours from ``report.css`` beside this file.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Final

from maas_sdk.demo import charts
from maas_sdk.demo.quantities import (
    count,
    data_size,
    duration,
    percent,
    ratio,
    round_duration,
    scientific,
)
from maas_sdk.demo.result import (
    Calls,
    ColdStart,
    DemoResult,
    Machine,
    Packaged,
    Sample,
    Stage,
    Training,
    Variant,
    checks,
    quantile,
)
from maas_sdk.tensors import Array

__all__ = ["render"]

# Stages that every Python function goes through are grey; what the model adds is blue.
_SHARED: Final = ("shared-1", "shared-2", "shared-3")
_OWN: Final = ("own-1", "own-2", "own-3", "own-4", "own-5")


def render(result: DemoResult) -> str:
    """The whole page."""
    body = "\n".join(
        [
            _header(result),
            _predictions(result.samples, result.confusion),
            _cold_start(result.cold_start),
            _calls(result.calls),
            _training(result.training),
            _variants(result.variants),
            _packaged(result.packaged),
            _summary(result),
            _footer(result),
        ]
    )
    style = files("maas_sdk.demo").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<title>maas_sdk demo: handwritten digits, from a Flax model to a serverless endpoint"
        f"</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n"
        "</html>\n"
    )


def _section(title: str, lead: str, *content: str) -> str:
    return (
        f"<section>\n<h2>{escape(title)}</h2>\n<p>{escape(lead)}</p>\n{''.join(content)}</section>"
    )


def _card(*content: str, class_: str = "card") -> str:
    return f'<div class="{class_}">{"".join(content)}</div>\n'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int = 1) -> str:
    """A table whose first column names the row; columns from ``numbers_from`` are right-aligned."""

    def cell(tag: str, index: int, content: str, scope: str = "") -> str:
        class_ = ' class="n"' if index >= numbers_from else ""
        return f"<{tag}{class_}{scope}>{escape(content)}</{tag}>"

    head = "".join(cell("th", i, name, ' scope="col"') for i, name in enumerate(heads))
    body = "".join(
        "<tr>"
        + cell("th", 0, row[0], ' scope="row"')
        + "".join(cell("td", i, value) for i, value in enumerate(row[1:], 1))
        + "</tr>\n"
        for row in rows
    )
    above = f"<thead><tr>{head}</tr></thead>\n" if heads else ""
    return f'<div class="scroll"><table>{above}<tbody>{body}</tbody></table></div>'


def _legend(entries: Iterable[tuple[str, str]]) -> str:
    items = "".join(f'<li><i class="{class_}"></i>{escape(name)}</li>' for name, class_ in entries)
    return f'<ul class="legend">{items}</ul>'


def _header(result: DemoResult) -> str:
    cold, calls = result.cold_start, result.calls
    figures = [
        (
            "Held-out digits right",
            percent(result.variants[0].accuracy),
            f"{percent(result.variants[-1].accuracy)} after int8",
        ),
        (
            "Cold start, process to answer",
            duration(cold.function_s),
            f"{ratio(cold.ratio)} an empty function",
        ),
        (
            "One row, warm, median",
            duration(statistics.median(calls.latencies_s)),
            f"99 % within {duration(quantile(calls.latencies_s, 0.99))}",
        ),
        (
            "Rows per second, batched",
            count(calls.batched_rows_per_s),
            f"{count(calls.single_rows_per_s)} one row at a time",
        ),
    ]
    tiles = "".join(
        f'<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><dd class="note">{escape(note)}</dd>'
        "</div>"
        for name, value, note in figures
    )
    steps = "".join(
        f"<li>{escape(stage.name)}<span>{duration(stage.duration_s)}</span></li>"
        for stage in result.stages
    )
    failed = [check for check in checks(result) if not check.passed]
    verdict = (
        f'<span class="verdict bad">✕ {len(failed)} of {len(checks(result))} checks failed</span>'
        if failed
        else f'<span class="verdict good">✓ all {len(checks(result))} checks passed</span>'
    )
    return (
        '<header>\n<p class="mark-name">maas_sdk demo</p>\n'
        "<h1>A Flax model, served from a cold start</h1>\n"
        '<p class="lead">Trained on real handwritten digits, quantized, compiled ahead of time, '
        "packaged as a function, started cold and called over HTTP. "
        f"{duration(sum(stage.duration_s for stage in result.stages))} in all, on this machine.</p>"
        f"\n{verdict}\n"
        f'<dl class="figures">{tiles}</dl>\n<ol class="steps">{steps}</ol>\n</header>'
    )


def _predictions(samples: Sequence[Sample], confusion: Array) -> str:
    items = []
    for sample in samples:
        right = sample.predicted == sample.label
        wrong = "" if right else ' class="miss"'
        said = percent(sample.confidence, digits=0)
        drawn = charts.pixels(sample.image, title=f"handwritten {sample.label}")
        truth = "" if right else f'<small class="truth">is a {sample.label}</small>'
        items.append(
            f"<li{wrong}>{drawn}"
            f'<div class="says"><b>{sample.predicted}</b><small>{said}</small></div>'
            f'<div class="meter"><i style="width:{100 * sample.confidence:.0f}%"></i></div>'
            f"{truth}</li>"
        )
    total, right_ones = int(confusion.sum()), int(confusion.diagonal().sum())
    return _section(
        "What it says about digits it has never seen",
        f"Answers of the running endpoint. It got {right_ones:,} of {total:,} held-out digits "
        "right; some of those it got wrong are framed in orange.",
        '<div class="pair">',
        _card("<h3>Prediction and confidence</h3>", f'<ul class="digits">{"".join(items)}</ul>'),
        _card(
            "<h3>Confusion matrix</h3>",
            _legend([("right", "accent-key"), ("wrong", "wrong-key")]),
            charts.heat_map(
                confusion, title=f"Confusion matrix: {right_ones} of {total} digits on the diagonal"
            ),
        ),
        "</div>",
    )


def _training(training: Training) -> str:
    epochs = training.epochs
    loss = charts.line_chart(
        [
            charts.Line(
                name="training", values=tuple(e.train_loss for e in epochs), class_="accent"
            ),
            charts.Line(
                name="held-out", values=tuple(e.test_loss for e in epochs), class_="second"
            ),
        ],
        title=f"Loss over {len(epochs)} epochs, ending at {epochs[-1].test_loss:.3f} held-out",
        x_label="epoch",
        y_label="cross-entropy (nats)",
        y_format=lambda value: f"{value:.2g}",
        y_low=0,
    )
    accuracy = charts.line_chart(
        [
            charts.Line(
                name="held-out", values=tuple(e.test_accuracy for e in epochs), class_="second"
            )
        ],
        title=f"Held-out accuracy over {len(epochs)} epochs, ending at "
        f"{percent(epochs[-1].test_accuracy)}",
        x_label="epoch",
        y_label="accuracy",
        y_format=lambda value: percent(value, digits=0),
        y_high=1,
    )
    return _section(
        "Training",
        f"{training.parameters:,} parameters, {training.train_rows:,} training and "
        f"{training.test_rows:,} held-out digits, {training.mesh}, {training.precision}, "
        f"seed {training.seed}.",
        '<div class="pair">',
        _card(
            "<h3>Loss</h3>",
            _legend([("training", "accent-key"), ("held-out", "second-key")]),
            loss,
        ),
        _card("<h3>Accuracy</h3>", _legend([("held-out", "second-key")]), accuracy),
        "</div>",
    )


def _variants(variants: Sequence[Variant]) -> str:
    first = variants[0]
    rows = [
        (
            variant.name,
            percent(variant.accuracy),
            data_size(variant.nbytes),
            percent(variant.nbytes / first.nbytes, digits=0),
            "–" if variant.max_abs_error is None else scientific(variant.max_abs_error),
            "–" if variant.agreement is None else percent(variant.agreement),
        )
        for variant in variants
    ]
    heads = ("model", "accuracy", "weights", "size", "largest logit error", "same label")
    return _section(
        "Quantized to int8 after training",
        "The same model with 8-bit weights and activations, judged on the same held-out digits.",
        _card(_table(heads, rows)),
    )


def _packaged(packaged: Packaged) -> str:
    rows = [
        ("compiled batch sizes", ", ".join(map(str, packaged.buckets))),
        ("compiled ahead for", ", ".join(packaged.targets)),
        ("bundle", data_size(packaged.bundle_nbytes)),
        ("function folder, bundle included", data_size(packaged.function_nbytes)),
        (
            "verified against the in-process model",
            f"{packaged.verified_rows:,} rows, largest difference "
            f"{scientific(packaged.max_abs_error)} (allowed: "
            f"{scientific(packaged.atol)} + {scientific(packaged.rtol)} × largest |reference|)",
        ),
    ]
    return _section(
        "The bundle",
        "Weights, portable StableHLO programs and executables compiled ahead of time, each file "
        "with its hash. Nothing of JAX's Python layer is needed to run it.",
        _card(_table((), rows, numbers_from=2)),
    )


def _coloured(stages: Sequence[Stage], other: Sequence[Stage]) -> list[charts.Segment]:
    shared_names = {stage.name for stage in other}
    shared, own = iter(_SHARED * 3), iter(_OWN * 3)
    return [
        charts.Segment(
            name=stage.name,
            value=stage.duration_s,
            class_=next(shared if stage.name in shared_names else own),
        )
        for stage in stages
    ]


def _cold_start(cold: ColdStart) -> str:
    ours = _coloured(cold.function, cold.empty)
    colour = {segment.name: segment.class_ for segment in ours}
    empty = [
        charts.Segment(
            name=stage.name, value=stage.duration_s, class_=colour.get(stage.name, "shared-3")
        )
        for stage in cold.empty
    ]
    picture = charts.stacked_bars(
        [
            charts.Bar(name="this model", segments=tuple(ours)),
            charts.Bar(name="an empty function, started the same way", segments=tuple(empty)),
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
    return _section(
        "Cold start",
        "From process start to the first correct answer over HTTP, through functions-framework. "
        f"Medians of {cold.runs} interleaved starts; {how}.",
        _card(
            _legend([(segment.name, segment.class_) for segment in ours]),
            f'<div class="scroll">{picture}</div>',
            "<details><summary>The same as a table</summary>",
            _table(("stage", "this model", "empty function"), rows),
            "</details>",
        ),
    )


def _calls(calls: Calls) -> str:
    p50, p99 = statistics.median(calls.latencies_s), quantile(calls.latencies_s, 0.99)
    latency = charts.histogram(
        calls.latencies_s,
        title=f"Latency of {len(calls.latencies_s)} calls of one row: median {duration(p50)}, "
        f"99 % within {duration(p99)}",
        x_label="latency of one call, as the client saw it",
        x_format=duration,
        tick_format=round_duration,
        marks=(("p50", p50), ("p99", p99)),
    )
    rates = charts.bars(
        [
            charts.Bar(
                name="one row per call",
                segments=(charts.Segment(name="", value=calls.single_rows_per_s, class_="quiet"),),
            ),
            charts.Bar(
                name="batched in frames",
                segments=(
                    charts.Segment(name="", value=calls.batched_rows_per_s, class_="accent"),
                ),
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
    return _section(
        "Calls",
        "The Python client on the same machine, one connection, HTTP on the loopback device.",
        _card(
            "<h3>Latency, one row per call</h3>",
            f'<div class="scroll">{latency}</div>',
            class_="card wide",
        ),
        '<div class="pair">',
        _card("<h3>Throughput</h3>", rates),
        _card("<h3>Every answer checked</h3>", _table((), rows)),
        "</div>",
    )


def _summary(result: DemoResult) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(check.name)}</th><td class="n">{escape(check.found)}</td>'
        f'<td class="n {"good" if check.passed else "bad"}">'
        f"{'✓ passed' if check.passed else '✕ failed'}</td></tr>\n"
        for check in checks(result)
    )
    return _section(
        "Checks",
        "The demo fails, with a non-zero exit code, when one of these does.",
        _card(
            '<div class="scroll"><table><thead><tr><th scope="col">promise</th>'
            '<th class="n" scope="col">found</th><th class="n" scope="col"></th></tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        ),
    )


def _footer(result: DemoResult) -> str:
    return (
        f"<footer><p>{escape(_machine_line(result.machine))}</p>"
        f"<p>Made {escape(result.started)} by <code>maas demo --seed {result.training.seed}</code>."
        " This page needs no network.</p></footer>"
    )


def _machine_line(machine: Machine) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return (
        f"{machine.processor}, {machine.cores} cores, {data_size(machine.memory_nbytes)} memory, "
        f"{machine.system}. {versions}."
    )
