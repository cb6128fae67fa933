"""``maas demo``: the main job end to end, on real data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from maas_sdk.cli.output import Debug, Json, add_command, extra, reporting
from maas_sdk.errors import ConfigError

__all__ = ["demo", "register"]

_DEVICES_FLAG = "--xla_force_host_platform_device_count"


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(app, demo, "maas demo", "maas demo --out /tmp/digits --seed 1", "maas demo --json")


def demo(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for the bundle, the function and the report."),
    ] = Path("demo-out"),
    seed: Annotated[int, typer.Option(help="Of the weights and the order of the data.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training digits.")] = 12,
    starts: Annotated[int, typer.Option(min=1, help="Cold starts to take the median of.")] = 5,
    devices: Annotated[int, typer.Option(min=1, help="Virtual CPU devices to train on.")] = 8,
    open_report: Annotated[
        bool, typer.Option("--open", help="Open the report in the browser at the end.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train, quantize, export, package, start cold and call: the whole way, on handwritten digits.

    Needs no network and no accelerator. Leaves a bundle, a deployable function folder and
    report.html in the output folder. Exits with 1 if a check fails.
    """
    with reporting(as_json, debug) as output:
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
    """XLA reads its flags when it first starts, which must not have happened yet.

    Raises:
        ConfigError: JAX is loaded already and has another number of devices.
    """
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith(_DEVICES_FLAG)]
    if "jax" in sys.modules:
        import jax

        if jax.local_device_count() != devices:
            raise ConfigError(
                f"jax was imported before the demo and has {jax.local_device_count()} devices, "
                f"not {devices}: run `maas demo` in a process of its own"
            )
        return
    os.environ["XLA_FLAGS"] = " ".join([*flags, f"{_DEVICES_FLAG}={devices}"])
    os.environ["JAX_PLATFORMS"] = "cpu"


def _open(path: Path) -> None:
    """Show a file in the desktop's browser; a machine without one is no error."""
    opener = {"darwin": "open", "win32": "explorer"}.get(sys.platform, "xdg-open")
    try:
        subprocess.Popen([opener, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        print(f"no browser to open {path} with", file=sys.stderr)
