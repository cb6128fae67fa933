"""``maas reweight``: a new version of a bundle, out of weights in a safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from maas_sdk.cli.output import BundlePlace, Debug, Json, add_command, extra, reporting

__all__ = ["register", "reweight"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        reweight,
        "maas reweight store/digits/1 trained.safetensors",
        "maas reweight digits.maas trained.safetensors --out digits-2.maas",
        "maas reweight gs://my-bucket/models/digits@3 trained.safetensors --out digits-4.maas",
    )


def reweight(
    bundle: BundlePlace,
    weights: Annotated[
        Path, typer.Argument(help="A safetensors file with the tensors of the bundle, by name.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The folder to write; else the next version, in a folder of versions."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a new version of a bundle with other weights beside the same programs.

    Nothing is compiled. Names, shapes and dtypes must be those of the bundle, and the golden inputs
    must have finite answers, or nothing is written.
    """
    with reporting(as_json, debug) as output:
        from maas_sdk.bundle.files.weights import open_weights
        from maas_sdk.charts.quantities import data_size
        from maas_sdk.errors import ConfigError, NotFoundError
        from maas_sdk.store.resolve import find_version

        if not weights.is_file():
            raise NotFoundError(f"no file at {weights}; check the path", path=str(weights))
        with extra("train"):
            from maas_sdk.export.reweight import reweight as make
        tensors = open_weights(weights)
        folder, version = find_version(bundle)
        # What comes from a bucket lies in the cache, which is nobody's to add to.
        if out is None and version is not None and folder.name != version:
            raise ConfigError(
                f"{bundle}: the new version is made in a folder first: name it with --out, then "
                "maas push"
            )
        sealed = make(folder, dict(tensors), path=out)
        output.show(
            f"{escape(str(sealed.path))}  {len(tensors)} tensors, {data_size(tensors.nbytes)}"
        )
        output.document(
            {"path": str(sealed.path), "tensors": len(tensors), "nbytes": tensors.nbytes}
        )
