"""``maas demo``: the main job end to end, on real data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from maas_sdk.cli.options import Debug, Json
from maas_sdk.cli.output import extra, reporting
from maas_sdk.cli.panels import add_command
from maas_sdk.errors import ConfigError, MachineError

__all__ = ["demo", "register"]

_DEVICES_FLAG = "--xla_force_host_platform_device_count"


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, demo, "maas demo", "maas demo --out /tmp/digits --seed 1", "maas demo --json")


def demo(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="Folder for the bundle, the function and the report.",
        ),
    ] = Path("demo-out"),
    seed: Annotated[
        int,
        typer.Option(
            metavar="NUMBER",
            help="Random seed of the weights and of the order of the data. The same seed gives the "
            "same model.",
        ),
    ] = 0,
    epochs: Annotated[
        int, typer.Option(min=1, metavar="COUNT", help="Passes over the training digits.")
    ] = 12,
    starts: Annotated[
        int, typer.Option(min=1, metavar="COUNT", help="Cold starts to take the median of.")
    ] = 5,
    devices: Annotated[
        int, typer.Option(min=1, metavar="COUNT", help="Virtual CPU devices to train on.")
    ] = 8,
    open_report: Annotated[
        bool, typer.Option("--open", help="Open the report in the browser at the end.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train, quantize, export, package, start cold and call a model of handwritten digits.

    Takes about a minute; needs no network and no accelerator. Writes digits.maas, a deployable
    function in digits-function/, and report.html. Exits with 1 if a check fails: less than 97 % of
    the held-out digits right, or an answer that differs from the in-process model's.

    Needs maas-sdk[demo].
    """
    with reporting(as_json, debug) as output:
        # Before the imports below: XLA reads the variable once, when JAX first starts it.
        _ask_for_devices(devices)
        with extra("demo"):
            import functions_framework  # noqa: F401  (started as a process, but must be there)

            from maas_sdk.demo.config import DemoConfig
            from maas_sdk.demo.result import checks, to_document
            from maas_sdk.demo.run import run
            from maas_sdk.demo.screen import Screen, table
        if out.exists() and not out.is_dir():
            raise ConfigError(f"{out}: expected a folder to write to, found a file")
        config = DemoConfig(out=out, seed=seed, epochs=epochs, starts=starts, devices=devices)
        with Screen(output.notes) as screen:
            result, report_path = run(config, screen)
        output.show(table(result))
        output.show(f"report  [bold]{report_path}[/bold]")
        output.document({**to_document(result), "report": str(report_path)})
        if open_report:
            _open(report_path)
        if not all(check.passed for check in checks(result)):
            raise typer.Exit(1)


def _ask_for_devices(devices: int) -> None:
    """Set the number of CPU devices, which XLA reads when it first starts.

    Raises:
        MachineError: JAX is loaded already and has another number of devices.
    """
    # A count that is set already gives way to the option.
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith(_DEVICES_FLAG)]
    if "jax" in sys.modules:
        import jax

        # Too late to set the variable: it can only be right already.
        if jax.local_device_count() != devices:
            raise MachineError(
                f"jax was imported before the demo and has {jax.local_device_count()} devices, "
                f"not {devices}: run `maas demo` in a process of its own"
            )
        return
    os.environ["XLA_FLAGS"] = " ".join([*flags, f"{_DEVICES_FLAG}={devices}"])
    # Only the CPU can be split into virtual devices.
    os.environ["JAX_PLATFORMS"] = "cpu"


def _open(path: Path) -> None:
    """Show a file in the desktop's browser; a machine without one only gets a note."""
    opener = {"darwin": "open", "win32": "explorer"}.get(sys.platform, "xdg-open")
    try:
        subprocess.Popen([opener, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        print(f"no browser to open {path} with", file=sys.stderr)
