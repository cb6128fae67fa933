"""``maas rollback``: the version before, for a label of a model or for a deployed function.

The argument MODEL chooses the first, ``--project`` and ``--name`` the second; naming both is an
error.
"""

from __future__ import annotations

from typing import Annotated, Final

import typer

from maas_sdk.cli.deployment import deploy
from maas_sdk.cli.deployment.options import REGION, WORKSPACE, Stack, WorkspaceFolder, Yes
from maas_sdk.cli.options import Debug, Json
from maas_sdk.cli.output import reporting
from maas_sdk.cli.panels import add_command
from maas_sdk.cli.stores import versions as store
from maas_sdk.errors import ConfigError

__all__ = ["register", "rollback"]

# Groups of options in the help.
_MODEL: Final = "A model in a store"
_DEPLOYMENT: Final = "A deployment"


def register(app: typer.Typer) -> None:
    """Add the command."""
    where = "--project my-project --name digits"
    add_command(
        app,
        rollback,
        "maas rollback gs://my-bucket/models/digits",
        f"maas rollback {where}",
        f"maas rollback {where} --to 3",
    )


def rollback(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            show_default="roll a deployment back",
            help="Model in its store, such as gs://my-bucket/models/digits, whose label goes back.",
        ),
    ] = None,
    label: Annotated[
        str, typer.Option(metavar="LABEL", help="Label to move.", rich_help_panel=_MODEL)
    ] = "stable",
    project: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            show_default=False,
            help="Google Cloud project ID.",
            rich_help_panel=_DEPLOYMENT,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="Name of the function.",
            rich_help_panel=_DEPLOYMENT,
        ),
    ] = None,
    region: Annotated[
        str,
        typer.Option(metavar="REGION", help="Region of the function.", rich_help_panel=_DEPLOYMENT),
    ] = REGION,
    to: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            show_default="the one before the current",
            help="Number of the release to run again; maas status lists them.",
            rich_help_panel=_DEPLOYMENT,
        ),
    ] = None,
    yes: Yes = False,
    stack: Stack = None,
    workspace: WorkspaceFolder = WORKSPACE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Go back to an earlier version of a model in a store, or of a deployed function.

    With MODEL, a label moves back to the version before. With --project and --name, a deployment
    runs an earlier release again, with its source and its settings; the plan is shown, and you are
    asked first. No version is deleted.

    See docs/store.md and docs/deploy.md.
    """
    with reporting(as_json, debug) as output:
        # The options with a default (--region, --yes, …) are left out: said or not cannot be told.
        if model is not None and (project, name, to) != (None, None, None):
            raise ConfigError(
                f"rollback: {model} is a model in a store, and --project, --name and --to are of a "
                "deployment: name one of the two"
            )
        if model is not None:
            store.set_back(output, model, label)
            return
        if project is None or name is None:
            raise ConfigError(
                "rollback: expected a model in its store, such as gs://my-bucket/models/digits, or "
                "--project and --name of a deployed function"
            )
        deploy.run_again(output, project, name, region, to, yes, stack, workspace, as_json=as_json)
