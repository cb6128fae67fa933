"""``maas export``: a model of one's own becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from maas_sdk.cli.options import Debug, ExampleInputs, Json, ModelWeights
from maas_sdk.cli.output import Output, extra, reporting, show_event
from maas_sdk.cli.panels import add_command

if TYPE_CHECKING:
    from maas_sdk.bundle import Bundle

__all__ = ["export", "register"]

# Groups of options in the help.
_PROGRAM: Final = "Compilation"
_OUTPUT: Final = "Output"


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
            help="The model: an nnx module, a linen module, a function apply(weights, inputs), or "
            "a function without arguments that makes one. MODULE may be a path to a file.",
        ),
    ],
    example: ExampleInputs,
    weights: ModelWeights = None,
    buckets: Annotated[
        str | None,
        typer.Option(
            metavar="ROWS,…",
            show_default="1 to 64 in powers of two",
            help="Batch sizes to compile, in rows: 1,2,4,8.",
            rich_help_panel=_PROGRAM,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TARGET",
            show_default="this machine",
            help="Machine to compile for, such as cpu-x86_64-avx2, tpu-v5e-1 or cuda (the GPU of "
            "this machine). Repeat it for several.",
            rich_help_panel=_PROGRAM,
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            help="Compare the bundle's answers with the model's.",
            rich_help_panel=_PROGRAM,
        ),
    ] = True,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            show_default="NAME.maas",
            help="Folder to write the bundle to.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default="the object's name",
            help="Model name.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option(help="Replace an existing bundle.", rich_help_panel=_OUTPUT)
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compile a Flax model ahead of time and pack it as a bundle.

    The module is imported from the current folder, or by its path. The bundle's metadata notes the
    words that named the model (source, source_example, source_weights), where `maas quantize` finds
    them. Absolute paths are written relative to the current folder, and left out when they lead
    out of it.

    Needs maas-sdk[train]. See docs/export.md.
    """
    with reporting(as_json, debug) as output:
        from maas_sdk.cli.inputs.model_words import read_example, read_sizes, source_metadata
        from maas_sdk.model.load_object import make_object

        with extra("train"):
            import jax  # noqa: F401

            from maas_sdk.export import export as make
        # Of my_model.py:nets.digits the last word: digits.
        title = name or model.rpartition(":")[2].rpartition(".")[2]
        # Left out rather than None: the default sizes are those of ``export``, said in one place.
        options: dict[str, Any] = (
            {} if buckets is None else {"buckets": read_sizes("--buckets", buckets)}
        )
        bundle = make(
            make_object(model),
            read_example(example),
            path=out or Path(f"{title}.maas"),
            name=title,
            weights=None if weights is None else make_object(weights),
            # Typer may give an empty list for an option that was not said.
            targets=target or None,
            verify=verify,
            metadata=source_metadata(model, example, weights),
            overwrite=overwrite,
            progress=lambda event: show_event(output, event),
            **options,
        )
        _show(output, bundle)


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
