"""``maas rollback``: back to what was before, of a model in a store or of a deployed function.

The rule: which of the two is said by what is named, a model or a project; naming both is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maas_sdk.cli.deployment import deploy
from maas_sdk.cli.deployment.status import WORKSPACE
from maas_sdk.cli.output import Debug, Json, add_command, reporting
from maas_sdk.cli.stores import versions as store
from maas_sdk.errors import ConfigError

__all__ = ["register", "rollback"]


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
        typer.Argument(help="A model in its store: its label is set back. Else a deployment is."),
    ] = None,
    label: Annotated[str, typer.Option(help="Of a model: the label to move.")] = "stable",
    project: Annotated[str | None, typer.Option(help="Of a deployment: id of the project.")] = None,
    name: Annotated[str | None, typer.Option(help="Of a deployment: the function.")] = None,
    region: Annotated[str, typer.Option(help="Of a deployment: where it runs.")] = "europe-west1",
    to: Annotated[
        int | None, typer.Option(help="Of a deployment: a release's number; else the one before.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Apply the plan without asking.")] = False,
    stack: Annotated[
        Path | None, typer.Option(help="Terraform stack; else terraform/stacks/quickstart.")
    ] = None,
    workspace: Annotated[
        Path, typer.Option(help="Folder of releases and of Terraform's state; keep it.")
    ] = WORKSPACE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Go back: a model's label to the version before, or a deployed function to a release.

    No version is deleted. A deployment runs an earlier release again, with its source and its
    settings.
    """
    with reporting(as_json, debug) as output:
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
