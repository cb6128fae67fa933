"""``maas reweight``: a new version of a bundle from weights in a safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from maas_sdk.cli.options import BundlePlace, Debug, Json
from maas_sdk.cli.output import extra, reporting
from maas_sdk.cli.panels import add_command

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
        Path,
        typer.Argument(
            metavar="FILE",
            help="New weights: a safetensors file with the names, shapes and dtypes of the "
            "bundle's own weights.safetensors.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            show_default="the next version, if the bundle lies in a folder of versions",
            help="Folder to write the new bundle to. Needed for a bundle from a bucket; "
            "maas push then publishes the result.",
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a new version of a bundle with other weights beside the same programs.

    Nothing is compiled. Nothing is written either if a name, a shape or a dtype differs from the
    bundle's, or if a golden input no longer has finite answers. A folder of versions is
    <store>/<model>/<version>.

    Needs maas-sdk[serve,train]. See docs/online.md.
    """
    with reporting(as_json, debug) as output:
        from maas_sdk.bundle.files.weights import open_weights
        from maas_sdk.charts.quantities import data_size
        from maas_sdk.errors import ConfigError, NotFoundError
        from maas_sdk.store import find_version

        # Before the bundle, which may have to be fetched first.
        if not weights.is_file():
            raise NotFoundError(f"no file at {weights}; check the path", path=str(weights))
        with extra("train"):
            from maas_sdk.export.reweight import reweight as make
        tensors = open_weights(weights)
        folder, version = find_version(bundle)
        # A bundle from a bucket lies in the cache, where a new version would never be published.
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
