"""``maas status`` and ``maas destroy``: the releases of a deployment, and its removal.

Opening a deployment and asking before a plan is applied are shared with ``maas deploy`` and
``maas rollback``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maas_sdk.cli.deployment import options
from maas_sdk.cli.options import Debug, Json
from maas_sdk.cli.output import Output, reporting
from maas_sdk.cli.panels import add_command
from maas_sdk.errors import ConfigError

if TYPE_CHECKING:
    from maas_sdk.deploy.deployment import Deployment

__all__ = ["ask_first", "asker", "destroy", "open_deployment", "register", "status"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    where = "--project my-project --name digits"
    add_command(app, status, f"maas status {where}")
    add_command(app, destroy, f"maas destroy {where}")


def status(
    project: options.Project,
    name: options.Name,
    region: options.Region = options.REGION,
    stack: options.Stack = None,
    workspace: options.WorkspaceFolder = options.WORKSPACE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a deployment's releases, the one that runs, and its address.

    See docs/deploy.md.
    """
    with reporting(as_json, debug) as output:
        import time
        from dataclasses import asdict

        from rich.table import Table

        made = open_deployment(output, workspace, stack, project, region, name)
        releases, outputs = made.status()
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("", "release", "model", "source", "made"):
            table.add_column(title)
        for release in releases.made:
            mark = "[green]●[/green]" if release.number == releases.current else ""
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(release.made_unix_s))
            table.add_row(mark, str(release.number), release.model, release.source[:12], when)
        output.show(table)
        # A kill between the record and the end of an apply: what runs is not known here.
        if releases.begun is not None:
            output.show(
                f"[yellow]the apply of release {releases.begun} did not end: "
                "deploy or roll back again[/yellow]"
            )
        output.lines(str(outputs.get("url") or "nothing is deployed"))
        if store := outputs.get("store"):
            output.lines(f"{store}  for models: the function may read it")
        output.document(
            {
                "current": releases.current,
                "begun": releases.begun,
                "releases": [asdict(release) for release in releases.made],
                "outputs": outputs,
            }
        )


def destroy(
    project: options.Project,
    name: options.Name,
    region: options.Region = options.REGION,
    with_models: Annotated[
        bool,
        typer.Option(
            "--with-models",
            help="Also delete the models in the deployment's bucket, and the bucket.",
        ),
    ] = False,
    yes: options.Yes = False,
    stack: options.Stack = None,
    workspace: options.WorkspaceFolder = options.WORKSPACE,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Remove everything that was deployed under a name.

    Shows the plan and asks first. Models in the deployment's bucket stay, and the bucket with them,
    unless --with-models is given.

    See docs/deploy.md.
    """
    with reporting(as_json, debug) as output:
        ask_first(as_json, yes)
        made = open_deployment(output, workspace, stack, project, region, name)
        found = made.destroy(asker(f"Destroy {name}?", yes), with_models=with_models)
        output.show("destroyed" if found.changed else "there was nothing to destroy")
        output.document({"destroyed": found.changed})


def open_deployment(
    output: Output,
    workspace: Path,
    stack: Path | None,
    project: str,
    region: str,
    name: str,
    state_bucket: str | None = None,
) -> Deployment:
    """Open the deployment that the options name.

    Raises:
        ConfigError: a name that cannot be one; no stack there.
    """
    from maas_sdk.deploy.backend import StateBucket
    from maas_sdk.deploy.deployment import Deployment
    from maas_sdk.deploy.settings import Settings
    from maas_sdk.deploy.terraform import TerraformBinary, find_stack
    from maas_sdk.deploy.workspace import Workspace

    # Names become parts of paths: they are checked before a path is made of them.
    Settings(project_id=project, region=region, name=name)

    def show(line: str) -> None:
        # Terraform's lines have brackets; and stdout is for the answer, which may be JSON.
        output.notes.print(line, markup=False, soft_wrap=True)

    return Deployment(
        Workspace(workspace, project, region, name),
        find_stack(stack),
        # Looked for when it is needed: a dry run works without terraform.
        lambda folder: TerraformBinary(folder, show),
        None if state_bucket is None else StateBucket.of(state_bucket, project, region, name),
    )


def ask_first(as_json: bool, settled: bool) -> None:
    """Raise ``ConfigError`` where a question would come up: scripts cannot answer it."""
    if as_json and not settled:
        raise ConfigError("--json asks nothing: say --yes to apply the plan, whatever it is")


def asker(question: str, yes: bool) -> Any:
    """Return a function that asks ``question``; with ``yes`` it agrees without asking."""
    # Enter alone changes nothing, and with --json stdout has nothing but the document.
    return lambda: yes or typer.confirm(question, default=False, err=True)
