"""The demo's result as one HTML file: no script, no network, readable in light, dark and print.

``render`` is pure: the same result gives the same page. Everything that comes from outside is
escaped. Pictures come from ``charts`` and ``pixels``, their colours from ``page.css``.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape

from maas_sdk.charts import plots
from maas_sdk.charts.heat_map import heat_map
from maas_sdk.charts.page import card, document, legend, section, table
from maas_sdk.charts.quantities import (
    count,
    data_size,
    duration,
    percent,
    ratio,
    scientific,
)
from maas_sdk.demo import speed
from maas_sdk.demo.pixels import pixels
from maas_sdk.demo.result import (
    DemoResult,
    Machine,
    ModelVariant,
    Packaged,
    Sample,
    Training,
    checks,
    quantile,
)
from maas_sdk.tensors import Array

__all__ = ["common_mistakes", "render"]


def render(result: DemoResult) -> str:
    """The whole page."""
    body = "\n".join(
        [
            _header(result),
            _predictions(result.samples, result.confusion),
            speed.cold_start_section(result.cold_start),
            speed.calls_section(result.calls),
            _training(result.training),
            _variants(result.variants),
            _packaged(result.packaged),
            _summary(result),
            _footer(result),
        ]
    )
    return document("maas_sdk demo: a Flax model, served from a cold start", body)


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
        drawn = pixels(sample.image, title=f"handwritten {sample.label}")
        truth = "" if right else f'<small class="truth">is a {sample.label}</small>'
        items.append(
            f"<li{wrong}>{drawn}"
            f'<div class="says"><b>{sample.predicted}</b><small>{said}</small></div>'
            f'<div class="meter"><i style="width:{100 * sample.confidence:.0f}%"></i></div>'
            f"{truth}</li>"
        )
    mistakes = common_mistakes(confusion)
    total, right_ones = int(confusion.sum()), int(confusion.diagonal().sum())
    return section(
        "What it says about digits it has never seen",
        f"Answers of the running endpoint. It got {right_ones:,} of {total:,} held-out digits "
        "right; some of those it got wrong are framed in orange.",
        '<div class="pair">',
        card("<h3>Prediction and confidence</h3>", f'<ul class="digits">{"".join(items)}</ul>'),
        card(
            "<h3>Confusion matrix</h3>",
            legend([("right", "accent-key"), ("wrong", "wrong-key")]),
            heat_map(
                confusion.tolist(),
                title=f"Confusion matrix: {right_ones} of {total} digits on the diagonal",
                kind="digit",
            ),
            table(
                ("most frequent mistakes", "times"),
                [
                    (f"a {true} taken for a {called}", str(times))
                    for true, called, times in mistakes
                ],
            )
            if mistakes
            else '<p class="quiet">No digit was taken for another.</p>',
        ),
        "</div>",
    )


def common_mistakes(confusion: Array, most: int = 3) -> list[tuple[int, int, int]]:
    """(true class, predicted class, times) of the most frequent mistakes, most frequent first.

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


def _training(training: Training) -> str:
    epochs = training.epochs
    loss = plots.line_chart(
        [
            plots.Line(
                name="training", values=tuple(e.train_loss for e in epochs), class_="accent"
            ),
            plots.Line(name="held-out", values=tuple(e.test_loss for e in epochs), class_="second"),
        ],
        title=f"Loss over {len(epochs)} epochs, ending at {epochs[-1].test_loss:.3f} held-out",
        x_label="epoch",
        y_label="cross-entropy (nats)",
        y_format=lambda value: f"{value:.2g}",
        y_low=0,
    )
    accuracy = plots.line_chart(
        [
            plots.Line(
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
    return section(
        "Training",
        f"{training.parameters:,} parameters, {training.train_rows:,} training and "
        f"{training.test_rows:,} held-out digits, {training.mesh}, {training.precision}, "
        f"seed {training.seed}.",
        '<div class="pair">',
        card(
            "<h3>Loss</h3>",
            legend([("training", "accent-key"), ("held-out", "second-key")]),
            loss,
        ),
        card("<h3>Accuracy</h3>", legend([("held-out", "second-key")]), accuracy),
        "</div>",
    )


def _variants(variants: Sequence[ModelVariant]) -> str:
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
    return section(
        "Quantized to int8 after training",
        "The same model with 8-bit weights and activations, judged on the same held-out digits.",
        card(table(heads, rows)),
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
    return section(
        "The bundle",
        "Weights, portable StableHLO programs and executables compiled ahead of time, each file "
        "with its hash. Nothing of JAX's Python layer is needed to run it.",
        card(table((), rows, numbers_from=2)),
    )


def _summary(result: DemoResult) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(check.name)}</th><td class="n">{escape(check.found)}</td>'
        f'<td class="n {"good" if check.passed else "bad"}">'
        f"{'✓ passed' if check.passed else '✕ failed'}</td></tr>\n"
        for check in checks(result)
    )
    return section(
        "Checks",
        "The demo fails, with a non-zero exit code, when one of these does.",
        card(
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
