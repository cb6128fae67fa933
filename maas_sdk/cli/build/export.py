"""``maas export``: a model of one's own becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maas_sdk.cli.output import Debug, Json, Output, add_command, extra, reporting
from maas_sdk.errors import ConfigError
from maas_sdk.model.load_object import make_object

if TYPE_CHECKING:
    from maas_sdk.bundle import Bundle

__all__ = [
    "export",
    "read_example",
    "read_sizes",
    "register",
    "show_event",
    "source_metadata",
]


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
    with a batch dimension, or a dict of them by input name; a few real rows are best. The bundle
    notes the words that named the model, for `maas quantize`.
    """
    with reporting(as_json, debug) as output:
        with extra("train"):
            import jax  # noqa: F401

            from maas_sdk.export import export as make
        title = name or model.rpartition(":")[2].rpartition(".")[2]
        options: dict[str, Any] = (
            {} if buckets is None else {"buckets": read_sizes("--buckets", buckets)}
        )
        bundle = make(
            make_object(model),
            read_example(example),
            path=out or Path(f"{title}.maas"),
            name=title,
            weights=None if weights is None else make_object(weights),
            targets=target or None,
            verify=verify,
            metadata=source_metadata(model, example, weights),
            overwrite=overwrite,
            progress=lambda event: show_event(output, event),
            **options,
        )
        _show(output, bundle)


def read_example(spec: str, option: str = "--example") -> Any:
    """An array, or a dict of them: of an .npy or .npz file, or what MODULE:OBJECT is or makes.

    Raises:
        ConfigError: not a readable file; as ``load_object``.
        ModelError: as ``make_object``.
    """
    import numpy as np

    path = Path(spec)
    if path.suffix not in (".npy", ".npz"):
        return make_object(spec)
    try:
        loaded = np.load(path, allow_pickle=False)
        return loaded if path.suffix == ".npy" else {k: loaded[k] for k in loaded.files}
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{option} {spec}: not a readable file: {error}") from error


def read_sizes(option: str, text: str) -> tuple[int, ...]:
    """Batch sizes out of "1,2,4,8"."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option}: expected sizes such as 1,2,4,8, got {text!r}") from error


def source_metadata(model: str, example: str | None, weights: str | None) -> dict[str, str]:
    """Where a model came from, for its manifest: the words as they were typed.

    An absolute path would mean nothing on another machine and says more of this one than a bundle
    should: it is written relative to the current folder, or left out when it is not below it.
    """
    words = {"source": model, "source_example": example, "source_weights": weights}
    portable = {key: _portable(spec) for key, spec in words.items() if spec is not None}
    if portable.get("source") is None:
        return {}
    return {key: spec for key, spec in portable.items() if spec is not None}


def _portable(spec: str) -> str | None:
    """The words, or None where they are a path that leads out of the current folder."""
    path = Path(spec)
    if not path.is_absolute():
        return spec
    try:
        return path.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return None


def show_event(output: Output, event: Any) -> None:
    """A step of an export as a note."""
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
