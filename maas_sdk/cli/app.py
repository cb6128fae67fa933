"""The command ``maas``: all commands under one name."""

from __future__ import annotations

from typing import Annotated

import typer

from maas_sdk import __version__
from maas_sdk.cli.build import export, package, quantize, reweight, seal
from maas_sdk.cli.build import inspect as bundles
from maas_sdk.cli.deployment import deploy
from maas_sdk.cli.deployment import status as deployed
from maas_sdk.cli.panels import CommandGroup, panel_of
from maas_sdk.cli.serving import batch, bench, predict, serve
from maas_sdk.cli.stores import rollback
from maas_sdk.cli.stores import versions as store
from maas_sdk.cli.study import demo, evaluate, parity, plan

__all__ = ["app"]

app = typer.Typer(
    name="maas",
    cls=CommandGroup,
    help="Serverless serving of JAX models: a Flax model in, a scale-to-zero endpoint out.",
    rich_markup_mode="rich",
    no_args_is_help=True,
    # A traceback with rich's boxes hides the one line that matters, and errors of ours have none.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: [bold]maas demo[/bold]",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"maas {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version)
    ] = False,
) -> None:
    """Options of ``maas`` itself."""


# The order of the help is that of panels.PANELS, not this one.
for family in (
    *(export, quantize, reweight, package, seal, bundles),
    *(serve, predict, batch),
    *(store, rollback),
    *(deploy, deployed),
    *(demo, evaluate, parity, plan),
):
    family.register(app)
# Last and by itself: it has two commands of its own, cold and load.
app.add_typer(bench.app, name="bench", rich_help_panel=panel_of("bench"))
