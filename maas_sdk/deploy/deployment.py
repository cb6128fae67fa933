"""Deployment of a zip: apply, roll back, destroy.

Each step writes variables, shows Terraform's plan, asks a person, and applies the plan. The rule:
nothing in the cloud changes that was not shown in the plan before, and a step is recorded before it
begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maas_sdk.deploy.backend import StateBucket
from maas_sdk.deploy.settings import Settings, variables
from maas_sdk.deploy.terraform import Terraform, copy_stack, declared_variables
from maas_sdk.deploy.workspace import Release, Releases, Workspace
from maas_sdk.errors import ConfigError

__all__ = ["Deployment", "Outcome"]

_NOBODY_ASKED = "not applied"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Result of a deployment step.

    Attributes:
        release: what runs now, or would; None: nothing.
        changed: whether anything in the cloud was changed.
        outputs: of the stack: "url" and what else it has.
    """

    release: Release | None
    changed: bool
    outputs: dict[str, Any]


class Deployment:
    """One deployment's workspace and stack.

    Attributes:
        workspace: its folder.
        stack: where its stack was copied to, once it was.
        state: the bucket that its state is to be in from now on; None: where it is, which is
            beside the stack unless it was moved.
    """

    def __init__(
        self,
        workspace: Workspace,
        stack: Path,
        terraform: Callable[[Path], Terraform],
        state: StateBucket | None = None,
    ) -> None:
        """Take the arguments; nothing is written.

        Args:
            workspace: of the deployment.
            stack: folder of the stack to deploy with.
            terraform: makes what runs Terraform in a folder; raises ``DependencyError`` where it is
                not installed.
            state: the bucket to have the state in.
        """
        self.workspace = workspace
        self.state = state
        self.stack: Path | None = None
        self._from = stack
        self._make = terraform

    def check(self, settings: Settings) -> None:
        """Check settings against the stack; nothing is written.

        Raises:
            ConfigError: the stack does not take what they say.
        """
        variables(settings, self.workspace.folder, declared_variables(self._from))

    def prepare(self, settings: Settings, archive: Path, model: str) -> Release:
        """Keep the zip, copy the stack, write its variables and its backend.

        No account is needed, nor Terraform, and nothing in the cloud is changed.

        Raises:
            ConfigError: the stack does not take the variables.
        """
        # First, so that refused settings leave nothing behind.
        values = variables(settings, archive, declared_variables(self._from))
        self.stack = copy_stack(self._from, self.workspace.folder)
        digest, kept = self.workspace.add_source(archive)
        # The caller's zip may lie in a temporary folder; Terraform and a later rollback need one
        # that stays.
        self.workspace.write_variables({**values, "source_zip": str(kept)})
        if self.state is not None:
            self.workspace.write_backend(self.state.block)
        return self.workspace.add(settings, model, digest, time.time())

    def apply(self, release: Release, agree: Callable[[], bool]) -> Outcome:
        """Show the plan for a release and, if ``agree`` says so, apply it.

        Raises:
            ConfigError: nobody agreed; the source is gone.
            MachineError: Terraform is not installed or failed, with what to do.
        """
        source = self.workspace.source(release.source)
        if not source.is_file():
            raise ConfigError(
                f"{source} is gone: package and deploy the bundle of release {release.number} again"
            )
        settings = self.workspace.settings_of(release)
        terraform = self._terraform()
        # Again: a rollback applies another release than the one that was prepared last.
        self.workspace.write_variables(variables(settings, source, declared_variables(self._from)))
        changes = terraform.plan(self.workspace.variables_file)
        if changes:
            if not agree():
                raise ConfigError(f"{_NOBODY_ASKED}: the plan was not agreed to; nothing changed")
            self.workspace.begin(release)
            terraform.apply()
        else:
            # `end` only names the release that runs: `begin` is what puts it into the list.
            self.workspace.begin(release)
        self.workspace.end(release)
        return Outcome(release=release, changed=changes, outputs=terraform.outputs())

    def rollback(self, agree: Callable[[], bool], to: int | None = None) -> Outcome:
        """Apply an earlier release again: its source and its settings.

        Args:
            agree: asked once the plan was shown.
            to: its number; None: the one before the current.

        Raises:
            ConfigError: there is none.
            MaasError: as ``apply``.
        """
        releases = self.workspace.releases()
        return self.apply(releases.before_current() if to is None else releases.find(to), agree)

    def destroy(self, agree: Callable[[], bool], *, with_models: bool = False) -> Outcome:
        """Remove all deployed resources; the releases stay here.

        Args:
            agree: asked once the plan was shown.
            with_models: take the models in the bucket along. That is first written to the cloud, as
                Terraform asks for.

        Raises:
            ConfigError: nothing was deployed from here.
            MaasError: as ``apply``.
        """
        releases = self.workspace.releases()
        # An apply that was cut off may have made resources: its settings are the last ones sent.
        number = releases.begun or releases.current
        if number is None:
            raise ConfigError(
                f"nothing was deployed from {self.workspace.folder}: see --workspace, --project, "
                "--region and --name"
            )
        # Its settings are needed although all goes: Terraform asks for every variable in a destroy,
        # too.
        release = releases.find(number)
        settings = self.workspace.settings_of(release)
        values = variables(
            settings, self.workspace.source(release.source), declared_variables(self._from)
        )
        # A stack of the user's own may have no bucket of models.
        if with_models and "force_destroy" in values:
            values["force_destroy"] = True
        terraform = self._terraform()
        file = self.workspace.write_variables(values)
        if not terraform.plan(file, destroy=True):
            # Everything was removed by other means: only the record has to follow.
            self.workspace.gone()
            return Outcome(release=None, changed=False, outputs={})
        if not agree():
            raise ConfigError(f"{_NOBODY_ASKED}: nothing was destroyed")
        self.workspace.begin(release)
        # Terraform destroys by the values in its state, not by the variables: the consent to
        # lose the models has to be applied before it counts.
        if values.get("force_destroy"):
            terraform.plan(file)
            terraform.apply()
            terraform.plan(file, destroy=True)
        terraform.apply()
        self.workspace.gone()
        return Outcome(release=None, changed=True, outputs={})

    def status(self) -> tuple[Releases, dict[str, Any]]:
        """Return the releases, and the stack's outputs as they were at the last apply.

        Raises:
            MachineError: Terraform is not installed, or its state cannot be read.
        """
        releases = self.workspace.releases()
        # Says so without Terraform, which need not be installed where nothing was deployed.
        if releases.current is None:
            return releases, {}
        return releases, self._terraform().outputs()

    def _terraform(self) -> Terraform:
        """Return Terraform in the workspace's copy of the stack, with its provider."""
        self.workspace.folder.mkdir(parents=True, exist_ok=True)
        # Each time: a mended stack has to reach deployments that were made before.
        self.stack = copy_stack(self._from, self.workspace.folder)
        terraform = self._make(self.stack)
        if self.state is None:
            terraform.init()
        else:
            terraform.keep_state(self.state)
        return terraform
