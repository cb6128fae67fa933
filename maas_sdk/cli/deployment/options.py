"""Options that name a deployment, and those of ``maas deploy``, in the groups that help shows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

__all__ = [
    "REGION",
    "WORKSPACE",
    "BundleFrom",
    "Concurrency",
    "Cpu",
    "DryRun",
    "Environment",
    "Invokers",
    "MaxInstances",
    "Memory",
    "MinInstances",
    "Name",
    "NewName",
    "Project",
    "Public",
    "Region",
    "Stack",
    "StateBucket",
    "StoreUrl",
    "WorkspaceFolder",
    "Yes",
]

REGION: Final = "europe-west1"
WORKSPACE: Final = Path("deployments")

_INSTANCES: Final = "Instances"
_ACCESS: Final = "Access and environment"
_STORED: Final = "Models in a store"
_TERRAFORM: Final = "Terraform"

Project = Annotated[
    str,
    # The variable is the one that Google's own tools and libraries read.
    typer.Option(
        "--project", envvar="GOOGLE_CLOUD_PROJECT", metavar="ID", help="Google Cloud project ID."
    ),
]
Region = Annotated[str, typer.Option(metavar="REGION", help="Region of the function.")]
Name = Annotated[str, typer.Option(metavar="NAME", help="Name of the function.")]
NewName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", show_default="made from the model's name", help="Name of the function."
    ),
]

Cpu = Annotated[
    float | None,
    typer.Option(
        metavar="CPUS",
        show_default="as its memory requires",
        help="CPUs per instance. More than 4Gi of memory needs 2, more than 8Gi 4, more than 16Gi "
        "6, more than 24Gi 8.",
        rich_help_panel=_INSTANCES,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        show_default="by the bundle's size",
        help="Memory per instance, in Mi or Gi, such as 2Gi; at most 32Gi. Less than the bundle "
        "needs is refused.",
        rich_help_panel=_INSTANCES,
    ),
]
Concurrency = Annotated[
    int,
    typer.Option(
        metavar="COUNT", help="Concurrent requests per instance.", rich_help_panel=_INSTANCES
    ),
]
MinInstances = Annotated[
    int,
    typer.Option(
        metavar="COUNT",
        help="Instances kept running. They cost money while idle, and calls to them have no cold "
        "start.",
        rich_help_panel=_INSTANCES,
    ),
]
MaxInstances = Annotated[
    int,
    typer.Option(metavar="COUNT", help="Largest number of instances.", rich_help_panel=_INSTANCES),
]

Public = Annotated[
    bool,
    typer.Option(
        help="Allow calls without authentication. Otherwise only accounts with the right to invoke "
        "the function can call it.",
        rich_help_panel=_ACCESS,
    ),
]
Invokers = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MEMBER",
        show_default="none",
        help="Allow this member to call the function: user:you@example.com, group:…, "
        "serviceAccount:… or domain:…. Repeat it for several.",
        rich_help_panel=_ACCESS,
    ),
]
Environment = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        show_default="none",
        help="Set an environment variable of the function. Not for secrets: the console shows it. "
        "Repeat it for several.",
        rich_help_panel=_ACCESS,
    ),
]

BundleFrom = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        show_default="the bundle goes into the function",
        help="Let the function fetch <store>/<model>@<version> when it starts.",
        rich_help_panel=_STORED,
    ),
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        show_default="a bundle that is too large is refused",
        help="Store to publish the bundle in if it is too large for a function's source. The "
        "function then fetches it.",
        rich_help_panel=_STORED,
    ),
]

DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Package, write the Terraform variables and show what would run. Needs no account.",
        rich_help_panel=_TERRAFORM,
    ),
]
Yes = Annotated[
    bool,
    typer.Option(
        "--yes", help="Apply the Terraform plan without asking.", rich_help_panel=_TERRAFORM
    ),
]
StateBucket = Annotated[
    str | None,
    typer.Option(
        metavar="BUCKET",
        show_default="stays where it is; at first the workspace",
        help="Existing bucket for Terraform's state.",
        rich_help_panel=_TERRAFORM,
    ),
]
Stack = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        show_default="terraform/stacks/quickstart",
        help="Folder of the Terraform stack.",
        rich_help_panel=_TERRAFORM,
    ),
]
WorkspaceFolder = Annotated[
    Path,
    typer.Option(
        metavar="PATH",
        help="Folder for releases and Terraform's state. Keep it: later commands need it.",
        rich_help_panel=_TERRAFORM,
    ),
]
