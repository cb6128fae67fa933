"""Check of a zipped function: started in isolation and asked for its golden outputs.

The rule: the zip's own files answer. The zip is unpacked into a new folder, runs with none of
this process's variables, and every program's answers to its golden inputs are compared with the
reference model's. Where the locked requirements can be had they are installed into an environment
of their own; where not, this interpreter runs it in its isolated mode, which does not look at
PYTHONPATH, the working folder or the user's packages, and the report names the environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

from maas_sdk.bundle.folder import open_bundle
from maas_sdk.bundle.manifest import golden_path
from maas_sdk.deploy.golden import golden_call
from maas_sdk.deploy.package import BUNDLE
from maas_sdk.deploy.process import FunctionProcess, framework_command
from maas_sdk.errors import ConfigError, CorruptError, MachineError, ModelError, NotFoundError

__all__ = [
    "CheckReport",
    "Environment",
    "Unpacked",
    "check_zip",
    "make_environment",
    "unpack",
]

Environment = Literal["auto", "installed", "this"]

# What the cloud sets too; nothing else of ours reaches the function.
_VARIABLES: Final = {"LANG": "C.UTF-8", "PATH": os.defpath}
_INSTALL_TIMEOUT_S: Final = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckReport:
    """Result of a check.

    Attributes:
        environment: "installed": one made of requirements.txt alone; "this": this interpreter,
            isolated.
        why: a sentence about it: what was installed, or why nothing was.
        programs: those that were asked, with the number of golden rows.
        first_answer_s: from the zip file to the first correct answer, unpacking included, the
            installing not.
        install_s: what installing took; 0 for "this".
        tier: how the model runs: "executable" or "program".
        bundle: "inside", or "handed in" for a function that fetches it from a store.
    """

    environment: str
    why: str
    programs: dict[str, int]
    first_answer_s: float
    install_s: float
    tier: str
    bundle: str


def check_zip(
    path: Path,
    *,
    bundle: Path | None = None,
    environment: Environment = "auto",
    timeout_s: float = 60.0,
    progress: Callable[[str], None] = lambda step: None,
) -> CheckReport:
    """Start a zipped function in a clean environment and call each program with its golden inputs.

    Args:
        path: the zip file.
        bundle: for a function that fetches its bundle: that bundle, from disk; a check needs no
            account.
        environment: "installed" from requirements.txt, "this" interpreter, or what can be had.
        timeout_s: to wait for an answer.
        progress: called with a word on each step.

    Raises:
        ConfigError: the zip has no bundle and none was given.
        MachineError: the requirements cannot be installed and ``environment`` asks for it.
        ModelError: an answer is wrong.
        MaasError: the function does not start or does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="maas-check-") as name:
        scratch = Path(name)
        unpacked = unpack(path, scratch, bundle, environment, progress)
        model = unpacked.model
        manifest = open_bundle(model).manifest
        calls = {
            program: golden_call(model, program, whole=True)
            for program in manifest.programs
            if golden_path(program) in manifest.files
        }
        if not calls:
            raise NotFoundError(f"{manifest.name} has no golden inputs: nothing can be checked")
        progress("function")
        # Caches that are written below HOME go with the folder, and none of the user's are read.
        variables = {**_VARIABLES, "HOME": str(scratch)}
        if not unpacked.inside:
            # main.py takes it before the store that it names, so the check needs no account.
            variables["MAAS_BUNDLE"] = str(model.resolve())
        began = time.perf_counter()
        first_s = 0.0
        with FunctionProcess(
            unpacked.folder, environment=variables, command=unpacked.command, inherit=False
        ) as process:
            for program, call in calls.items():
                # Asked from before the port is open, as the first caller of a function scaled to
                # zero would.
                status, body = process.first_answer(
                    call.path, call.body, headers=call.headers, timeout_s=timeout_s
                )
                if status != 200:
                    raise ModelError(
                        f"{path}: program {program!r} answers with status {status}: "
                        f"{body[:500].decode(errors='replace')}"
                    )
                call.check(body)
                # Of the first program alone: the others meet a process that is warm.
                first_s = first_s or time.perf_counter() - began
            tier = next((str(e["tier"]) for _, e in process.events() if "tier" in e), "unknown")
    return unpacked.report(
        programs={program: call.rows for program, call in calls.items()},
        first_s=first_s,
        tier=tier,
    )


class Unpacked(NamedTuple):
    """A zipped function in a folder, and the command that starts it."""

    folder: Path
    # The bundle: in the folder, or handed in.
    model: Path
    inside: bool
    # Its first word is the interpreter.
    command: list[str]
    # "installed" or "this", and a sentence about it.
    kind: str
    why: str
    unzip_s: float
    install_s: float

    def report(self, *, programs: dict[str, int], first_s: float, tier: str) -> CheckReport:
        """Return the report of a check; ``first_s`` is the time from folder to first answer."""
        return CheckReport(
            environment=self.kind,
            why=self.why,
            programs=programs,
            first_answer_s=self.unzip_s + first_s,
            install_s=self.install_s,
            tier=tier,
            bundle="inside" if self.inside else "handed in",
        )


def unpack(
    path: Path,
    scratch: Path,
    bundle: Path | None,
    environment: Environment,
    progress: Callable[[str], None] = lambda step: None,
) -> Unpacked:
    """Unpack a zipped function beside an environment for it, both in ``scratch``.

    Other arguments and errors are those of ``check_zip``.
    """
    began = time.perf_counter()
    folder = _unzip(path, scratch / "function")
    unzip_s = time.perf_counter() - began
    inside = (folder / BUNDLE).is_dir()
    model = folder / BUNDLE if inside else bundle
    if model is None:
        raise ConfigError(
            f"{path} has no bundle in it, its function fetches one: give the bundle's folder "
            "as well, so that the answers can be checked"
        )
    progress("environment")
    began = time.perf_counter()
    command, kind, why = _environment(folder, scratch, environment)
    install_s = time.perf_counter() - began if kind == "installed" else 0.0
    return Unpacked(folder, model, inside, command, kind, why, unzip_s, install_s)


def make_environment(requirements: Path, folder: Path, *, hashed: bool = True) -> Path:
    """Make a virtual environment with the packages of a requirements file alone.

    Args:
        requirements: with exact versions, the whole closure.
        folder: to make.
        hashed: whether every line has hashes, which are then insisted on.

    Returns:
        Its interpreter.

    Raises:
        MachineError: it cannot be installed; the message holds what pip said last.
    """
    python = folder / "bin" / "python"
    install = [
        # No dependencies: the file is the whole closure, and a package that it lacks must show
        # here, as it would in the cloud, instead of being fetched.
        *(str(python), "-I", "-m", "pip", "install", "--quiet", "--no-deps"),
        *(("--require-hashes",) if hashed else ()),
        # Without an index pip would wait through five retries before the other environment is used.
        *("--disable-pip-version-check", "--retries", "1", "--requirement", str(requirements)),
    ]
    for command in ([sys.executable, "-I", "-m", "venv", str(folder)], install):
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_INSTALL_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MachineError(f"no environment from {requirements.name}: {error}") from error
        if done.returncode:
            # pip's reason is in its last lines, after the attempts.
            words = (done.stderr or done.stdout).strip().splitlines()[-3:]
            raise MachineError(f"no environment from {requirements.name}: {' '.join(words)}")
    return python


def _unzip(path: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise CorruptError(f"{path} is no whole zip file: {error}; package it again") from error
    return folder


def _environment(folder: Path, scratch: Path, wanted: Environment) -> tuple[list[str], str, str]:
    """Return the start command, the environment's kind, and the reason for it."""
    requirements = folder / "requirements.txt"
    why = "asked for"
    if wanted != "this":
        try:
            hashed = "--hash=" in requirements.read_text(encoding="utf-8")
            python = make_environment(requirements, scratch / "environment", hashed=hashed)
            # Given to the interpreter: the script's own first line starts Python without -I.
            script = python.parent / "functions-framework"
            how = "with hashes" if hashed else "without hashes"
            return [str(python), "-I", str(script)], "installed", f"requirements.txt, {how}"
        # OSError: the zip has no requirements.txt.
        except (MachineError, OSError) as error:
            if wanted == "installed":
                raise
            why = f"requirements.txt could not be installed: {error}"
    # Isolated mode; the function puts its own folder first, so its maas_sdk is the one in the zip.
    return [sys.executable, "-I", *framework_command()], "this", why
