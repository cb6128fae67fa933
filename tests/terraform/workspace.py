"""A copy of terraform/ in which Terraform is really run, against stand-ins for its providers.

The rule it keeps: nothing is written into the repository. What Terraform leaves is in the copy.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.terraform.cloud import PROJECT, REGION

__all__ = [
    "TERRAFORM",
    "Ran",
    "Workspace",
    "backend_environment",
    "changes",
    "copied",
    "needs_terraform",
]

TERRAFORM: Final = Path(__file__).parents[2] / "terraform"
_BINARY: Final = shutil.which("terraform")

needs_terraform = pytest.mark.skipif(
    _BINARY is None,
    reason="the program `terraform` is not on PATH; https://developer.hashicorp.com/terraform/install",
)

# What a root module of a user's would say.
_PROVIDERS: Final = f"""
terraform {{
  required_providers {{
    google      = {{ source = "hashicorp/google" }}
    google-beta = {{ source = "hashicorp/google-beta" }}
  }}
}}

provider "google" {{
  project = "{PROJECT}"
  region  = "{REGION}"
}}

provider "google-beta" {{
  project = "{PROJECT}"
}}
"""


@dataclass(frozen=True)
class Ran:
    """A command of Terraform that has ended."""

    code: int
    output: str

    def says(self, words: str) -> bool:
        """Whether the words are in its output, wherever Terraform broke the lines."""
        plain = self.output.replace("│", " ").replace("╷", " ").replace("╵", " ")
        return " ".join(words.split()) in " ".join(plain.split())


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A root module, and the environment that Terraform is started with.

    Attributes:
        folder: where Terraform is run.
        reattach: the value of TF_REATTACH_PROVIDERS; empty, providers are looked for elsewhere.
        environment: variables over those of this process.
        settings: Terraform's own, over what every run has.
    """

    folder: Path
    reattach: str
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: str = ""

    def run(self, *arguments: str, code: int | None = 0) -> Ran:
        """Run Terraform; its exit code must be ``code``, unless that is None."""
        assert _BINARY
        # The user's own settings (a mirror, variables, a data folder) stay out.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("TF_", "GOOGLE_"))}
        settings = self.folder / ".terraformrc"
        settings.write_text(f"disable_checkpoint = true\n{self.settings}", encoding="utf-8")
        done = subprocess.run(
            [_BINARY, *arguments],
            cwd=self.folder,
            env={
                **inherited,
                "CHECKPOINT_DISABLE": "1",
                "TF_CLI_CONFIG_FILE": str(settings),
                "TF_IN_AUTOMATION": "1",
                "TF_INPUT": "0",
                "TF_REATTACH_PROVIDERS": self.reattach,
                **self.environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        ran = Ran(done.returncode, done.stdout)
        assert code is None or ran.code == code, f"terraform {arguments[0]}\n{ran.output}"
        return ran

    def variables(self, **values: Any) -> None:
        """Set variables of the root module; earlier ones are forgotten."""
        text = json.dumps(values, indent=2)
        (self.folder / "test.auto.tfvars.json").write_text(text, encoding="utf-8")

    def apply(self) -> Ran:
        """Apply without asking."""
        return self.run("apply", "-auto-approve", "-no-color")

    def plan(self) -> dict[str, Any]:
        """Plan, and give the plan as ``terraform show -json`` prints it."""
        self.run("plan", "-no-color", "-out=plan.bin")
        plan: dict[str, Any] = json.loads(self.run("show", "-json", "plan.bin").output)
        return plan

    def outputs(self) -> dict[str, Any]:
        """Name → value."""
        found = json.loads(self.run("output", "-json").output)
        return {name: output["value"] for name, output in found.items()}


def backend_environment(storage_url: str) -> dict[str, str]:
    """What makes Terraform's gcs backend speak with an emulator, and ask for no account."""
    return {
        "GOOGLE_BACKEND_STORAGE_CUSTOM_ENDPOINT": f"{storage_url}/storage/v1/",
        "GOOGLE_STORAGE_CUSTOM_ENDPOINT": f"{storage_url}/storage/v1/",
        "GOOGLE_OAUTH_ACCESS_TOKEN": "none",
    }


def changes(plan: Mapping[str, Any]) -> dict[str, list[str]]:
    """Address → actions of what a plan would change: "create", "update", "delete", or two."""
    return {
        change["address"]: change["change"]["actions"]
        for change in plan.get("resource_changes", ())
        if change["change"]["actions"] not in (["no-op"], ["read"])
    }


def copied(target: Path, *, root: str | None = None, providers: bool = False) -> Path:
    """A copy of terraform/, and in it the folder to run in.

    Args:
        target: a folder that is there.
        root: "stacks/quickstart" or "modules/access"; None: the copy itself, with function.zip,
            which the examples of the pages deploy.
        providers: write the blocks that a root module has and a module has not.
    """
    copy = target / "terraform"
    shutil.copytree(TERRAFORM, copy, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    folder = copy / root if root else copy
    (folder / "function.zip").write_bytes(b"stands for a packaged function")
    if providers:
        (folder / "providers.tf").write_text(_PROVIDERS, encoding="utf-8")
    return folder
