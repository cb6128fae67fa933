"""``maas quantize``: a smaller model that answers the same, as a bundle, with what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maas_sdk.cli.build.export import read_sizes, show_event, source_metadata
from maas_sdk.cli.inputs.float_model import FloatModelSource, Given, find_source, load_source
from maas_sdk.cli.output import Debug, Json, Output, add_command, extra, reporting
from maas_sdk.errors import ConfigError

if TYPE_CHECKING:
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
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="MODULE:OBJECT as for maas export, or a bundle that it made, also one in a store.",
        ),
    ] = None,
    recipe: Annotated[str, typer.Option(help="What to do; --list shows what there is.")] = "int8",
    evaluate: Annotated[
        str | None,
        typer.Option(
            help="What to judge by: an .npz file with inputs and labels, or MODULE:OBJECT, such "
            "rows or a function of a prediction to a number, more for better."
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="Rows that show what goes into the layers: .npy, .npz, MODULE:OBJECT."),
    ] = None,
    calibration_rows: Annotated[
        int, typer.Option(min=1, help="Rows taken of --calibration at most.")
    ] = 512,
    example: Annotated[
        str | None,
        typer.Option(
            help="Example inputs: MODULE:OBJECT, or an .npy or .npz file; else a bundle's own, or "
            "rows of --evaluate or --calibration."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="MODULE:OBJECT, for linen modules and apply functions.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write; else NAME-RECIPE.maas.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the model; else the bundle's, or the object's.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Choose bits weight by weight: the fewest bytes that lose no more than this in "
            "what --evaluate measures, such as 0.005."
        ),
    ] = None,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity", help="Only show what each weight alone costs; nothing is written."
        ),
    ] = False,
    decode: Annotated[
        str,
        typer.Option(
            help="program: served as it is stored, small in memory. open: decoded while the bundle "
            "opens, small to download."
        ),
    ] = "program",
    entropy: Annotated[
        str | None, typer.Option(help="Entropy-code what is stored: zstd or zlib.")
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(
            help="Only layers or weights whose whole name this regular expression matches; repeat "
            "for several."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Not these; repeat for several.")
    ] = None,
    skip_first: Annotated[
        bool, typer.Option("--skip-first", help="Leave the first layer in float.")
    ] = False,
    skip_last: Annotated[
        bool, typer.Option("--skip-last", help="Leave the last layer in float.")
    ] = False,
    bits: Annotated[int | None, typer.Option(help="Bits of a weight, instead of the recipe's.")] = (
        None
    ),
    group: Annotated[
        str | None,
        typer.Option(
            help="Who shares a scale: channel, tensor, or so many neighbouring inputs, such as 64."
        ),
    ] = None,
    buckets: Annotated[
        str | None, typer.Option(help="Batch sizes to compile, such as 1,2,4,8; else the bundle's.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="What it shall run on, such as cpu-x86_64-avx2 or tpu-v5e: recipes that cannot "
            "run there are refused."
        ),
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option(help="Time both models' compiled programs at these batch sizes: 1,8,64."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the report, a page (.html) or .json.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
    list_recipes: Annotated[
        bool, typer.Option("--list", help="Show the recipes and leave.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Quantize a trained model, say what that costs, and export it as a bundle.

    The model is named as for `maas export`, or by a bundle that `maas export` made, whose model is
    then imported again: a bundle itself holds no model that could be quantized. The model in its
    module must have its trained weights.
    """
    with reporting(as_json, debug) as output:
        if list_recipes:
            _show_recipes(output)
            return
        if model is None:
            raise ConfigError(
                "expected a model, MODULE:OBJECT or a bundle that maas export made; "
                "maas quantize --list shows the recipes"
            )
        _check_words(decode, entropy, report)
        with extra("train"):
            from maas_sdk.compress.quantize import quantize as make
        source = find_source(model, example, weights, name)
        target_folder = out or Path(f"{source.stem}-{recipe}.maas")
        if not sensitivity and target_folder.exists() and not overwrite:
            raise ConfigError(f"{target_folder} is there already: --overwrite replaces it")
        sizes = None if latency is None else read_sizes("--latency", latency)
        batches = source.buckets if buckets is None else read_sizes("--buckets", buckets)
        changes: dict[str, Any] = {
            "include": tuple(include or ()) or None,
            "exclude": tuple(exclude or ()) or None,
            "skip_first": skip_first or None,
            "skip_last": skip_last or None,
            "bits": bits,
            "granularity": _granularity(group),
        }
        given = load_source(
            source, calibration, evaluate, {k: v for k, v in changes.items() if v is not None}
        )
        if sensitivity:
            from maas_sdk.cli.build.sensitivity import cost_document, cost_table, costs

            with _bars(output) as tell:
                found = costs(given, recipe, tell)
            output.show(cost_table(found))
            output.document(cost_document(found))
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
                latency_buckets=sizes or (),
                progress=tell,
                **given.changes,
            )
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


def _check_words(decode: str, entropy: str | None, report: Path | None) -> None:
    """What would otherwise be found out after minutes of work."""
    if decode not in ("program", "open"):
        raise ConfigError(f"--decode: expected program or open, got {decode!r}")
    if entropy not in (None, "zstd", "zlib"):
        raise ConfigError(f"--entropy: expected zstd or zlib, got {entropy!r}")
    if report is not None and (
        report.suffix not in (".html", ".json") or not report.resolve().parent.is_dir()
    ):
        raise ConfigError(
            f"--report {report}: expected a path that ends in .html or .json, in a folder"
        )


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
    """One bar for each stage, as it begins."""
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
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error


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
    from maas_sdk.export import TARGETS, export

    if target is not None and target not in TARGETS:
        output.note(
            f"[yellow]note:[/yellow] nothing is compiled for {target} here: the bundle has this "
            "machine's executables and the portable program"
        )
    options: dict[str, Any] = {} if buckets is None else {"buckets": buckets}
    bundle = export(
        quantized,
        given.example,
        path=path,
        name=source.name,
        targets=[target] if target in TARGETS else None,
        metadata=source_metadata(source.model, source.example, source.weights),
        overwrite=overwrite,
        progress=lambda event: show_event(output, event),
        **options,
    )
    return bundle.path
