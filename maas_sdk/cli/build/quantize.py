"""``maas quantize``: a quantized model as a bundle, with the loss in quality."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from maas_sdk.cli.build import quantize_options as options
from maas_sdk.cli.options import Debug, Json
from maas_sdk.cli.output import Output, extra, reporting, show_event
from maas_sdk.cli.panels import add_command
from maas_sdk.cli.report_file import check_report_file, write_report_file
from maas_sdk.errors import ConfigError

if TYPE_CHECKING:
    from maas_sdk.cli.inputs.float_model import FloatModelSource, Given
    from maas_sdk.compress.program.report import QuantizationReport
    from maas_sdk.compress.quantize import Progress

__all__ = ["quantize", "register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        quantize,
        "maas quantize my_model:model --example rows.npy --evaluate test.npz",
        "maas quantize digits.maas --recipe int8 --evaluate test.npz --out digits-int8.maas",
        "maas quantize digits.maas --recipe gptq --calibration rows.npy --report report.html",
        "maas quantize digits.maas --evaluate test.npz --max-drop 0.005 --decode open",
        "maas quantize digits.maas --recipe kmeans2 --evaluate test.npz --sensitivity",
        "maas quantize --list",
    )


def quantize(
    model: options.FloatModel = None,
    recipe: options.RecipeName = "int8",
    list_recipes: options.ListRecipes = False,
    evaluate: options.Evaluate = None,
    calibration: options.Calibration = None,
    calibration_rows: options.CalibrationRows = 512,
    example: options.Example = None,
    weights: options.FloatWeights = None,
    max_drop: options.MaxDrop = None,
    sensitivity: options.Sensitivities = False,
    bits: options.Bits = None,
    group: options.Group = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    skip_first: options.SkipFirst = False,
    skip_last: options.SkipLast = False,
    decode: options.Decode = "program",
    entropy: options.Entropy = None,
    buckets: options.Buckets = None,
    target: options.TargetName = None,
    latency: options.LatencyRows = None,
    out: options.Out = None,
    name: options.Name = None,
    report: options.Report = None,
    overwrite: options.ReplaceBundle = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Quantize a trained model, measure what that costs, and export it as a bundle.

    MODEL is named as for `maas export`, or by a bundle that `maas export` made. Such a bundle notes
    in its metadata where its model came from, and that model is imported again, from the same
    folder: a bundle itself holds no model that could be quantized. The model in its module must
    have its trained weights.

    Needs maas-sdk[train]. See docs/quantization.md for the recipes and which one to take.
    """
    with reporting(as_json, debug) as output:
        # Before the model is looked for, which need not be named for this.
        if list_recipes:
            _show_recipes(output)
            return
        if model is None:
            raise ConfigError(
                "expected a model, MODULE:OBJECT or a bundle that maas export made; "
                "maas quantize --list shows the recipes"
            )
        from maas_sdk.cli.inputs.float_model import find_source, load_source
        from maas_sdk.cli.inputs.model_words import read_sizes

        _check_words(decode, entropy, report)
        with extra("train"):
            from maas_sdk.compress.quantize import quantize as make
        source = find_source(model, example, weights, name)
        target_folder = out or Path(f"{source.stem}-{recipe}.maas")
        # Now, and not after the minutes that quantizing takes; a sensitivity study writes no
        # bundle.
        if not sensitivity and target_folder.exists() and not overwrite:
            raise ConfigError(f"{target_folder} is there already: --overwrite replaces it")
        sizes = () if latency is None else read_sizes("--latency", latency)
        batches = source.buckets if buckets is None else read_sizes("--buckets", buckets)
        changes = _recipe_changes(include, exclude, skip_first, skip_last, bits, group)
        given = load_source(source, calibration, evaluate, changes)
        if sensitivity:
            _show_sensitivity(output, given, recipe)
            return
        with _bars(output) as tell:
            quantized = make(
                given.model,
                recipe,
                calibration=given.calibration,
                evaluate=given.evaluate,
                example_inputs=given.example,
                weights=given.weights,
                max_drop=max_drop,
                calibration_rows=calibration_rows,
                decode=decode,  # type: ignore[arg-type]
                entropy=entropy,  # type: ignore[arg-type]
                target=target,
                latency_buckets=sizes,
                progress=tell,
                **given.changes,
            )
        # Before the export, which may fail: the measured figures are not lost with it.
        if report is not None:
            _write(report, quantized.report)
        output.lines(quantized.report.table())
        path = _export(output, quantized, given, source, target_folder, batches, target, overwrite)
        output.show(f"\n[bold]{path}[/bold]\nnext: maas inspect {path}, maas serve {path}")
        output.document({"path": str(path), "name": source.name, **quantized.report.to_dict()})


def _show_recipes(output: Output) -> None:
    with extra("train"):
        from maas_sdk.compress.program.recipes import SUMMARIES
    width = max(map(len, SUMMARIES))
    for name, summary in SUMMARIES.items():
        output.lines(f"{name:{width}}  {summary}")
    output.document([{"name": name, "summary": text} for name, text in SUMMARIES.items()])


def _show_sensitivity(output: Output, given: Given, recipe: str) -> None:
    from maas_sdk.cli.build.sensitivity import cost_document, cost_table, costs

    with _bars(output) as tell:
        found = costs(given, recipe, tell)
    output.show(cost_table(found))
    output.document(cost_document(found))


def _recipe_changes(
    include: list[str] | None,
    exclude: list[str] | None,
    skip_first: bool,
    skip_last: bool,
    bits: int | None,
    group: str | None,
) -> dict[str, Any]:
    """Return the fields of the recipe that the options set; what was not said stays as it is."""
    changes: dict[str, Any] = {
        "include": tuple(include or ()) or None,
        "exclude": tuple(exclude or ()) or None,
        "skip_first": skip_first or None,
        "skip_last": skip_last or None,
        "bits": bits,
        "granularity": _granularity(group),
    }
    return {name: value for name, value in changes.items() if value is not None}


def _check_words(decode: str, entropy: str | None, report: Path | None) -> None:
    """Check option values that would otherwise fail after minutes of work."""
    if decode not in ("program", "open"):
        raise ConfigError(f"--decode: expected program or open, got {decode!r}")
    if entropy not in (None, "zstd", "zlib"):
        raise ConfigError(f"--entropy: expected zstd or zlib, got {entropy!r}")
    check_report_file("--report", report, ".html", ".json")


def _granularity(group: str | None) -> str | int | None:
    if group in (None, "channel", "tensor"):
        return group
    try:
        return int(group)
    except ValueError as error:
        raise ConfigError(
            f"--group: expected channel, tensor or a number such as 64, got {group!r}"
        ) from error


@contextmanager
def _bars(output: Output) -> Iterator[Progress]:
    """Progress bars, one for each stage as it begins."""
    with output.progress() as bars:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield tell


def _write(path: Path, report: QuantizationReport) -> None:
    from maas_sdk.compress.report_page import report_page

    text = report_page(report) if path.suffix == ".html" else report.to_json()
    write_report_file(path, text)


def _export(
    output: Output,
    quantized: Any,
    given: Given,
    source: FloatModelSource,
    path: Path,
    buckets: tuple[int, ...] | None,
    target: str | None,
    overwrite: bool,
) -> Path:
    from maas_sdk.cli.inputs.model_words import source_metadata
    from maas_sdk.export import TARGETS, export

    if target is not None and target not in TARGETS:
        output.note(
            f"[yellow]note:[/yellow] nothing is compiled for {target} here: the bundle has this "
            "machine's executables and the portable program"
        )
    sizes: dict[str, Any] = {} if buckets is None else {"buckets": buckets}
    bundle = export(
        quantized,
        given.example,
        path=path,
        name=source.name,
        # A machine that only the recipes know has chosen their formats all the same.
        targets=[target] if target in TARGETS else None,
        metadata=source_metadata(source.model, source.example, source.weights),
        overwrite=overwrite,
        progress=lambda event: show_event(output, event),
        **sizes,
    )
    return bundle.path
