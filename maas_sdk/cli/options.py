"""Arguments and options that several commands share, each with one wording.

Defaults that a command works out itself are described by ``show_default``, in parentheses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "BundleOrEndpoint",
    "BundlePlace",
    "Debug",
    "EndpointModel",
    "ExampleInputs",
    "Invert",
    "Json",
    "ModelWeights",
    "Overwrite",
    "Page",
    "ProgramName",
    "TrustedKey",
]

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, for scripts.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

# What ``store.resolve.find_bundle`` takes. A text, for a path would lose a slash of ``gs://``.
BundlePlace = Annotated[
    str,
    typer.Argument(
        metavar="BUNDLE",
        help="Bundle folder, or a model in a store: gs://bucket/models/digits@stable.",
    ),
]
BundleOrEndpoint = Annotated[
    str,
    typer.Argument(
        metavar="BUNDLE|URL",
        help="Bundle folder, a model in a store (gs://bucket/models/digits@stable), or the URL of "
        "an endpoint.",
    ),
]

TrustedKey = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY",
        show_default="MAAS_TRUSTED_KEYS; without it, any bundle opens",
        help="Require a signature by this public key, or by one in this file of keys. Repeat it to "
        "accept any of several.",
    ),
]

Overwrite = Annotated[bool, typer.Option(help="Replace an existing output.")]
ProgramName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default="predict, or the first program",
        help="Program of the model to run.",
    ),
]
EndpointModel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default="named by the URL",
        help="Model at the endpoint. Needed unless the URL ends in /v1/models/NAME.",
    ),
]
Invert = Annotated[
    bool,
    typer.Option(
        "--invert",
        help="Invert grayscale images (black becomes 1.0), for models trained on ink on paper.",
    ),
]

# The words of ``export`` and ``quantize`` that name a model of one's own.
ExampleInputs = Annotated[
    str,
    typer.Option(
        metavar="FILE|MODULE:OBJECT",
        help="Example inputs: an .npy or .npz file, or MODULE:OBJECT. One array with a batch "
        "dimension, or arrays by input name; a few real rows are best.",
    ),
]
ModelWeights = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:OBJECT",
        show_default="those of the model",
        help="Trained weights. Needed for linen modules and apply functions.",
    ),
]

Page = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        show_default="no page",
        help="Write the report as an HTML page; the path ends in .html.",
    ),
]
