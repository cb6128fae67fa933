"""The seam to Terraform: a stack's folder, and the few commands that a deployment needs.

Everything that knows the binary is here. The rule: its output is passed on as it comes, so that a
long apply can be watched, and a failure becomes one of our errors, which says what to do.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from maas_sdk.deploy.advice import failure
from maas_sdk.deploy.backend import BACKEND, StateBucket
from maas_sdk.errors import ConfigError, DependencyError, MachineError

__all__ = ["Terraform", "TerraformBinary", "copy_stack", "declared_variables", "find_stack"]

_STACK: Final = Path("terraform") / "stacks" / "quickstart"
_PLAN: Final = "maas.tfplan"
# terraform fmt puts a block at the beginning of its line, so no parser of HCL is needed.
_VARIABLE: Final = re.compile(r'^variable\s+"(\w+)"', re.MULTILINE)


class Terraform(Protocol):
    """Terraform's operations that a deployment needs."""

    def init(self) -> None:
        """Fetch the provider. Raises ``MachineError``."""

    def keep_state(self, place: StateBucket) -> None:
        """Initialise with the state in a bucket, moving there any state that exists."""

    def plan(self, variables: Path, *, destroy: bool = False) -> bool:
        """Show the changes and keep the plan for ``apply``; return False when there are none."""

    def apply(self) -> None:
        """Apply the kept plan. Raises ``MachineError``."""

    def outputs(self) -> dict[str, Any]:
        """Return the stack's outputs by name; empty before the first apply."""


class TerraformBinary:
    """The ``terraform`` binary of the PATH, in a stack's folder."""

    def __init__(self, folder: Path, show: Callable[[str], None] = lambda line: None) -> None:
        """Find the binary.

        Args:
            folder: of the stack; the state lies in it unless it names a backend.
            show: is given each line that plan and apply print.

        Raises:
            DependencyError: there is none.
        """
        binary = shutil.which("terraform")
        if binary is None:
            raise DependencyError(
                "terraform is not installed: https://developer.hashicorp.com/terraform/install "
                "(one file, to be put on the PATH). --dry-run needs none"
            )
        self._binary, self._folder, self._show = binary, folder, show

    def init(self) -> None:
        """Fetch the provider. Raises ``MachineError``."""
        self._run("init")

    def keep_state(self, place: StateBucket) -> None:
        """Initialise with the state in a bucket, moving there any state that exists.

        Should that fail, it is where it was.

        Raises:
            ConfigError: the state would replace another one.
            MachineError: Terraform failed.
        """
        file = self._folder / BACKEND
        before = file.read_text(encoding="utf-8") if file.is_file() else None
        if before == place.block:
            self.init()
            return
        moves = self._has_state()
        if moves and _resources(self._state_in(place)):
            raise ConfigError(
                f"{place.url} holds the state of something that is deployed, and so does "
                f"{self._folder}: expected one of them. To go on with that of the bucket, deploy "
                "with another --workspace; to keep both, choose another --name or --state-bucket"
            )
        file.write_text(place.block, encoding="utf-8")
        try:
            # -force-copy answers the question whether to copy the state, which nobody is there to
            # answer. Without state, -reconfigure: init refuses a backend that changed since the
            # last one.
            self._run("init", *(("-migrate-state", "-force-copy") if moves else ("-reconfigure",)))
        # Ctrl-C included: a backend that stayed would point to a state that is not there.
        except BaseException:
            if before is None:
                file.unlink()
            else:
                file.write_text(before, encoding="utf-8")
            raise

    def plan(self, variables: Path, *, destroy: bool = False) -> bool:
        """Show the changes and keep the plan for ``apply``; return False when there are none."""
        # The plan is kept, so that exactly what was shown is applied.
        options = [f"-var-file={variables.resolve()}", f"-out={_PLAN}", "-detailed-exitcode"]
        # 2: there are changes.
        return self._run("plan", *options, *(["-destroy"] if destroy else []), fine=(0, 2)) == 2

    def apply(self) -> None:
        """Apply the kept plan. Raises ``MachineError``."""
        self._run("apply", _PLAN)

    def outputs(self) -> dict[str, Any]:
        """Return the stack's outputs by name; empty before the first apply."""
        # Warnings about Terraform's own settings go to the other stream: here they would not parse.
        done = subprocess.run(
            [self._binary, f"-chdir={self._folder}", "output", "-json", "-no-color"],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise failure("terraform output", done.stdout + done.stderr)
        return {name: entry.get("value") for name, entry in json.loads(done.stdout).items()}

    def _has_state(self) -> bool:
        """Return True when the state, wherever it is, lists anything deployed."""
        local, remote = self._folder / "terraform.tfstate", self._folder / ".terraform"
        # Terraform writes this file where a backend is configured; the state then lies there.
        if (remote / "terraform.tfstate").is_file():
            self.init()
            return _resources(self._pulled(self._folder))
        return local.is_file() and _resources(local.read_text(encoding="utf-8"))

    def _state_in(self, place: StateBucket) -> str:
        """Return a bucket's state, read from a temporary folder."""
        with tempfile.TemporaryDirectory(prefix="maas-state-") as scratch:
            (Path(scratch) / "main.tf").write_text(place.block, encoding="utf-8")
            self._run("init", folder=Path(scratch))
            return self._pulled(Path(scratch))

    def _pulled(self, folder: Path) -> str:
        done = subprocess.run(
            [self._binary, f"-chdir={folder}", "state", "pull"],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise failure("terraform state pull", done.stdout + done.stderr)
        return done.stdout

    def _run(
        self, command: str, *options: str, fine: tuple[int, ...] = (0,), folder: Path | None = None
    ) -> int:
        """Run a command, its lines shown unless it is ``init``; return its exit code."""
        where = folder or self._folder
        words = [f"-chdir={where}", command, "-no-color", "-input=false", *options]
        lines = []
        with subprocess.Popen(
            [self._binary, *words],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                # Its lines are about the provider; they are kept for an error.
                if command != "init":
                    self._show(line.rstrip("\n"))
        if process.returncode not in fine:
            raise failure(f"terraform {command}", "".join(lines))
        return process.returncode

    def _environment(self) -> dict[str, str]:
        # No hints of what to type next, which name commands of Terraform's, and no call home for
        # news of versions.
        return {**os.environ, "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}


def find_stack(stack: Path | None = None) -> Path:
    """Find the folder of the stack to deploy with.

    Args:
        stack: what the user named; None: the quickstart below this folder, or of the checkout that
            this package was installed from.

    Raises:
        ConfigError: the one named is not there, or holds no Terraform files.
        MachineError: none was named, and there is none.
    """
    places = [stack] if stack else [_STACK, Path(__file__).resolve().parents[2] / _STACK]
    for place in places:
        if any(place.glob("*.tf")):
            return place.resolve()
    # A named folder is the call's to mend. Otherwise a checkout is missing: the wheel has no
    # terraform/.
    raise (ConfigError if stack else MachineError)(
        f"no Terraform stack in {places[0]}: work in a checkout of maas_sdk, which has terraform/, "
        "or name a stack's folder with --stack"
    )


def copy_stack(stack: Path, workspace: Path) -> Path:
    """Copy a stack, with the modules beside it, into the folder that keeps its state.

    Files of Terraform's own (state, provider) that lie in the workspace stay, and so does the one
    that says where the state is.

    Returns:
        The stack's folder in the workspace.
    """
    # A stack names its modules as ../../modules, so they have to lie the same way.
    root = stack.parents[1] if stack.parent.name == "stacks" else stack
    target = workspace / "terraform"
    shutil.copytree(
        root,
        target,
        # Of Terraform runs in the checkout itself: another deployment's state must not come along.
        ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*", "*.tfvars*", _PLAN, "tests"),
        dirs_exist_ok=True,
    )
    return target / stack.relative_to(root)


def declared_variables(stack: Path) -> set[str]:
    """Return names of the variables that a stack takes."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(stack.glob("*.tf"))]
    return {name for text in texts for name in _VARIABLE.findall(text)}


def _resources(state: str) -> bool:
    """Return True when a state, as Terraform writes it, has anything in it."""
    return bool(state.strip()) and bool(json.loads(state).get("resources"))
