"""``maas bench``: cold starts of a bundle, latency and rows per second of an endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from maas_sdk.cli.options import Debug, EndpointModel, Json
from maas_sdk.cli.output import Output, extra, reporting
from maas_sdk.cli.panels import add_command, examples
from maas_sdk.errors import ConfigError

__all__ = ["app", "cold", "load", "stage_table"]

# The panel of both commands in the help of ``maas bench``, and a group of options of the first.
_PANEL: Final = "Commands"
_DEPLOYED: Final = "Deployed endpoint"

app = typer.Typer(
    help="Measure cold starts of a bundle (cold), or load an endpoint (load).",
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=examples(
        "maas bench cold digits.maas", "maas bench load http://127.0.0.1:8080/v1/models/digits"
    ),
)


def cold(
    bundle: Annotated[
        str | None,
        typer.Argument(
            metavar="BUNDLE",
            show_default=False,
            help="Bundle folder, or a model in a store: gs://bucket/models/digits@stable. Optional "
            "with --url, where it serves to check the answers.",
        ),
    ] = None,
    runs: Annotated[
        int, typer.Option(min=1, metavar="COUNT", help="Starts to take the median of.")
    ] = 5,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            show_default="measure on this machine",
            help="Measure this deployed endpoint.",
            rich_help_panel=_DEPLOYED,
        ),
    ] = None,
    idle_s: Annotated[
        float,
        typer.Option(
            "--idle",
            min=0,
            metavar="SECONDS",
            help="Idle time before each round. Cloud Run keeps an idle instance for about 900 s.",
            rich_help_panel=_DEPLOYED,
        ),
    ] = 900.0,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="MAAS_TOKEN",
            metavar="TOKEN",
            show_default="none",
            help="Token, sent as Authorization: Bearer.",
            rich_help_panel=_DEPLOYED,
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Time cold starts, from process start to the first correct answer.

    The bundle is packaged as a function and started with functions-framework, as on Cloud
    Functions, in turns with an empty function. Each stage is timed, and the answer is compared with
    the golden one.

    With --url, a deployed endpoint is left idle, called, and called again at once. The process age
    in the endpoint's metadata tells which calls started an instance.

    Needs maas-sdk[serve]. See docs/cold-start.md.
    """
    with reporting(as_json, debug) as output:
        from maas_sdk.store import find_bundle

        folder = None if bundle is None else find_bundle(bundle)
        if url is not None:
            _cold_deployed(output, url, folder, runs, idle_s, token)
        elif folder is not None:
            _cold_here(output, folder, runs)
        else:
            raise ConfigError("what is to be measured? Give a bundle's folder, or --url")


def _cold_here(output: Output, bundle: Path, runs: int) -> None:
    import tempfile
    from dataclasses import asdict

    from maas_sdk.charts.quantities import duration, ratio

    with extra("serve"):
        # It runs as a process of its own: the import only finds out whether it is installed.
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


def _cold_deployed(
    output: Output, url: str, bundle: Path | None, runs: int, idle_s: float, token: str | None
) -> None:
    import statistics
    from dataclasses import asdict

    from maas_sdk.charts.quantities import duration
    from maas_sdk.cli.serving.predict import split_url
    from maas_sdk.deploy.deployed import measure_deployed
    from maas_sdk.deploy.golden import golden_call

    base, model = split_url(url)
    if bundle is not None:
        call = golden_call(bundle)
        # The name in the bundle: calls go to it, so its process is asked for its age, too.
        model = call.path.removeprefix("/v1/models/").removesuffix(":predict")
    elif model is not None:
        # Without the bundle there is nothing to compare with: any answer counts, as "checked" says.
        call = _made_up_call(base, model, token, url)
    else:
        raise ConfigError(f"{url}: which model? End the URL in /v1/models/NAME, or give the bundle")
    with output.progress() as bar:
        task = bar.add_task(f"rounds of {duration(idle_s)} idle", total=runs)
        found = measure_deployed(
            base,
            call,
            model=model,
            headers={"Authorization": f"Bearer {token}"} if token else None,
            runs=runs,
            idle_s=idle_s,
            progress=lambda done: bar.update(task, completed=done),
        )
    output.show(
        f"{len(found.cold_s)} of {runs} first calls were cold"
        + (f": median {duration(statistics.median(found.cold_s))}" if found.cold_s else "")
        + f"; warm calls {duration(statistics.median(found.warm_s))}"
    )
    if found.start_s is not None:
        output.show(f"a start costs its caller {duration(found.start_s)}")
    else:
        output.show("[yellow]an instance was there each time: leave it alone longer (--idle)")
    output.document({**asdict(found), "start_s": found.start_s, "checked": bundle is not None})


def _made_up_call(base: str, model: str, token: str | None, url: str) -> Any:
    """Return a request with made-up inputs; its check only demands an answer, not which one."""
    from maas_sdk.cli.serving.load_test import made_up
    from maas_sdk.cli.serving.predict import endpoint_signature
    from maas_sdk.client import Client
    from maas_sdk.deploy.golden import FirstCall
    from maas_sdk.errors import ModelError
    from maas_sdk.wire.frames import CONTENT_TYPE, Call, Failure, decode_results, encode_calls

    with Client(base, model, token=token) as client:
        inputs = made_up(endpoint_signature(client.metadata(), None, url), 1)

    def check(body: bytes) -> None:
        [answer] = decode_results(body)
        if isinstance(answer, Failure):
            raise ModelError(f"{url} answers with an error: {answer.message}")

    return FirstCall(
        path=f"/v1/models/{model}:predict",
        headers={"Content-Type": CONTENT_TYPE},
        body=tuple(encode_calls([Call(id="0", inputs=inputs)])),
        check=check,
    )


def stage_table(found: Any) -> Any:
    """Return a table of a cold start's stages beside the empty function's."""
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
    url: Annotated[str, typer.Argument(metavar="URL", help="Endpoint to call.")],
    model: EndpointModel = None,
    calls: Annotated[
        int, typer.Option(min=1, metavar="COUNT", help="Calls in all, over all threads.")
    ] = 500,
    clients: Annotated[
        int, typer.Option(min=1, max=256, metavar="COUNT", help="Threads that call in parallel.")
    ] = 1,
    rows: Annotated[int, typer.Option(min=1, metavar="ROWS", help="Rows per call.")] = 1,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Call an endpoint with made-up inputs; show latency and rows per second.

    Refused calls are counted and not retried: retries would measure the client.
    """
    with reporting(as_json, debug) as output:
        from dataclasses import asdict

        from maas_sdk.charts.quantities import count, duration
        from maas_sdk.cli.serving.load_test import LoadConfig, run

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
        # Figures of no calls at all must not pass in a script.
        if not found.answered:
            raise typer.Exit(1)


add_command(
    app,
    cold,
    "maas bench cold digits.maas",
    "maas bench cold digits.maas --runs 9",
    "maas bench cold gs://my-bucket/models/digits@stable",
    "maas bench cold --url https://digits-abc.a.run.app/v1/models/digits --idle 1200",
    panel=_PANEL,
)
add_command(
    app,
    load,
    "maas bench load http://127.0.0.1:8080/v1/models/digits",
    "maas bench load http://127.0.0.1:8080 --model digits --clients 8 --calls 2000",
    panel=_PANEL,
)
