"""``maas export``: a model of one's own becomes a bundle."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maas_sdk.cli.output import Debug, Json, Output, add_command, extra, reporting
from maas_sdk.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from maas_sdk.bundle import Bundle

__all__ = ["export", "load_object", "register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        export,
        "maas export my_model:model --example my_model:example",
        "maas export my_model.py:model --example rows.npy --out digits.maas --name digits",
        "maas export my_model:apply --weights my_model:weights --example my_model:example",
    )


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:OBJECT",
            help="An nnx module, a linen module, an apply function, or a function that makes one.",
        ),
    ],
    example: Annotated[
        str, typer.Option(help="Example inputs: MODULE:OBJECT, or an .npy or .npz file.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write; else NAME.maas.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the model; else the object's.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="MODULE:OBJECT, for linen modules and apply functions.")
    ] = None,
    buckets: Annotated[
        str | None, typer.Option(help="Batch sizes to compile, such as 1,2,4,8.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Compile for this target; repeat for several. Else this machine's."),
    ] = None,
    verify: Annotated[
        bool, typer.Option(help="Compare the bundle's answers with the model's.")
    ] = True,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compile a Flax model ahead of time and pack it as a bundle.

    Your module is imported from the current folder, or by its path. Example inputs are one array
    with a batch dimension, or a dict of them by input name; a few real rows are best.
    """
    with reporting(as_json, debug) as output:
        with extra("train"):
            import jax  # noqa: F401

            from maas_sdk.export import export as make
        title = name or model.rpartition(":")[2].rpartition(".")[2]
        options: dict[str, Any] = {} if buckets is None else {"buckets": _sizes(buckets)}
        bundle = make(
            _made(load_object(model)),
            _example(example),
            path=out or Path(f"{title}.maas"),
            name=title,
            weights=None if weights is None else _made(load_object(weights)),
            targets=target or None,
            verify=verify,
            overwrite=overwrite,
            progress=lambda event: _progress(output, event),
            **options,
        )
        _show(output, bundle)


def load_object(spec: str) -> Any:
    """The object that ``module:object`` or ``path/to/file.py:object`` names.

    Raises:
        ConfigError: not of this form, no such module, or no such object in it.
        ModelError: the module raised while it was imported.
    """
    place, colon, path = spec.rpartition(":")
    if not colon or not place or not path:
        raise ConfigError(
            f"{spec!r}: expected MODULE:OBJECT, such as my_model:model or my_model.py:model"
        )
    file = Path(place) if place.endswith(".py") else None
    if file is not None and not file.is_file():
        raise ConfigError(f"{spec}: no file {place} in {Path.cwd()}")
    folder, module_name = (str(file.parent.resolve()), file.stem) if file else (os.getcwd(), place)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (
            module_name == error.name or module_name.startswith(f"{error.name}.")
        ):
            raise ConfigError(
                f"{spec}: {module_name} imports {error.name}, which is not installed"
            ) from error
        raise ConfigError(
            f"{spec}: no module {module_name} in {folder} or the environment"
        ) from error
    except Exception as error:
        raise ModelError(
            f"{spec}: {module_name} raised {type(error).__name__} while it was imported: {error}"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            known = ", ".join(sorted(n for n in vars(found) if not n.startswith("_"))[:20])
            raise ConfigError(f"{spec}: no {part!r} in {place}; it has {known}")
        found = getattr(found, part)
    return found


def _made(found: Any) -> Any:
    """What a class or a function without required arguments makes; anything else as it is."""
    import inspect

    if not inspect.isfunction(found):
        return found
    needed = [
        p
        for p in inspect.signature(found).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    return found if needed else found()


def _example(spec: str) -> Any:
    import numpy as np

    path = Path(spec)
    if path.suffix not in (".npy", ".npz"):
        return _made(load_object(spec))
    try:
        loaded = np.load(path, allow_pickle=False)
        return loaded if path.suffix == ".npy" else {k: loaded[k] for k in loaded.files}
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"--example {spec}: not a readable file: {error}") from error


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--buckets: expected sizes such as 1,2,4,8, got {text!r}") from error


def _progress(output: Output, event: Any) -> None:
    from rich.markup import escape

    if event.warning:
        output.note(f"[yellow]note:[/yellow] {escape(event.message)}")
    elif event.done == event.total:
        target = f" {event.target}" if event.target else ""
        output.note(f"[dim]{event.stage}{target}[/dim] {escape(event.message)}")


def _show(output: Output, bundle: Bundle) -> None:
    from maas_sdk.charts.quantities import data_size

    manifest = bundle.manifest
    nbytes = sum(entry.size_bytes for entry in manifest.files.values())
    output.show(f"[bold]{bundle.path}[/bold]  {data_size(nbytes)}")
    output.show(f"next: maas inspect {bundle.path}, maas serve {bundle.path}")
    output.document(
        {
            "path": str(bundle.path),
            "name": manifest.name,
            "nbytes": nbytes,
            "programs": list(manifest.programs),
            "targets": list(manifest.targets),
        }
    )
