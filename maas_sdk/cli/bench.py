"""``maas bench``: how fast a bundle starts, and how fast an endpoint answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from maas_sdk.cli.output import Debug, Json, add_command, examples, extra, reporting

__all__ = ["app", "cold", "load", "stage_table"]

app = typer.Typer(
    help="Measure: cold starts of a bundle, load on an endpoint.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=examples(
        "maas bench cold digits.maas", "maas bench load http://127.0.0.1:8080/v1/models/digits"
    ),
)


def cold(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    runs: Annotated[int, typer.Option(min=1, help="Starts to take the median of.")] = 5,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Time process start to first correct answer, beside an empty function.

    The bundle is packaged as a function and started with functions-framework, as Cloud Functions
    would; the answer is held against the golden one.
    """
    with reporting(as_json, debug) as output:
        import tempfile
        from dataclasses import asdict

        from maas_sdk.charts.quantities import duration, ratio

        with extra("serve"):
            import functions_framework  # noqa: F401

            from maas_sdk.deploy.coldstart import measure
            from maas_sdk.deploy.golden import golden_call
            from maas_sdk.deploy.package import package

        with tempfile.TemporaryDirectory(prefix="maas-bench-") as name, output.progress() as bar:
            scratch = Path(name)
            folder = package(bundle, scratch / "function")
            task = bar.add_task("cold starts", total=runs + 1)
            found = measure(
                folder,
                golden_call(bundle),
                scratch=scratch,
                runs=runs,
                progress=lambda done: bar.update(task, completed=done),
            )
        output.show(stage_table(found))
        output.show(
            f"{duration(found.function_s)}, {ratio(found.ratio)} an empty function "
            f"({duration(found.empty_s)}); tier {found.tier}, medians of {found.runs} starts"
        )
        output.document(
            {
                **asdict(found),
                "function_s": found.function_s,
                "empty_s": found.empty_s,
                "ratio": found.ratio,
            }
        )


def stage_table(found: Any) -> Any:
    """A cold start's stages, beside the empty function's."""
    from rich.table import Table

    from maas_sdk.charts.quantities import duration

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("stage")
    table.add_column("this model", justify="right")
    table.add_column("empty function", justify="right")
    empty = {stage.name: stage.duration_s for stage in found.empty}
    for stage in found.function:
        beside = duration(empty[stage.name]) if stage.name in empty else "–"
        table.add_row(stage.name, duration(stage.duration_s), beside)
    return table


def load(
    url: Annotated[str, typer.Argument(metavar="URL", help="An endpoint.")],
    model: Annotated[
        str | None, typer.Option(help="Model there; not needed if the URL names it.")
    ] = None,
    calls: Annotated[int, typer.Option(min=1, help="Calls in all.")] = 500,
    clients: Annotated[int, typer.Option(min=1, max=256, help="Threads that call.")] = 1,
    rows: Annotated[int, typer.Option(min=1, help="Rows per call.")] = 1,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Call an endpoint with made-up inputs and show latency and rows per second.

    Refused calls are counted, not tried again: what is measured is the endpoint, not the client's
    patience.
    """
    with reporting(as_json, debug) as output:
        from dataclasses import asdict

        from maas_sdk.charts.quantities import count, duration
        from maas_sdk.cli.load import LoadConfig, run

        config = LoadConfig(url=url, model=model, calls=calls, clients=clients, rows=rows)
        with output.progress() as bar:
            task = bar.add_task("calls", total=calls)
            found = run(config, lambda: bar.advance(task))
        output.show(
            f"{found.answered:,} of {calls:,} calls answered, {count(found.rows_per_s)} rows/s\n"
            f"latency p50 {duration(found.p50_s)}, p90 {duration(found.p90_s)}, "
            f"p99 {duration(found.p99_s)}, largest {duration(found.max_s)}"
        )
        for code, times in found.errors.items():
            output.show(f"[yellow]{times:,} × {code}[/yellow]")
        output.document(asdict(found))
        if not found.answered:
            raise typer.Exit(1)


add_command(app, cold, "maas bench cold digits.maas", "maas bench cold digits.maas --runs 9")
add_command(
    app,
    load,
    "maas bench load http://127.0.0.1:8080/v1/models/digits",
    "maas bench load http://127.0.0.1:8080 --model digits --clients 8 --calls 2000",
)
