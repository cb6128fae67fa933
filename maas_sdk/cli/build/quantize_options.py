"""Arguments and options of ``maas quantize``, in the groups that its help shows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

__all__ = [
    "Bits",
    "Buckets",
    "Calibration",
    "CalibrationRows",
    "Decode",
    "Entropy",
    "Evaluate",
    "Example",
    "Exclude",
    "FloatModel",
    "FloatWeights",
    "Group",
    "Include",
    "LatencyRows",
    "ListRecipes",
    "MaxDrop",
    "Name",
    "Out",
    "RecipeName",
    "ReplaceBundle",
    "Report",
    "Sensitivities",
    "SkipFirst",
    "SkipLast",
    "TargetName",
]

_DATA: Final = "Data"
_LAYERS: Final = "Layers and bits"
_SERVING: Final = "Storage and serving"
_OUTPUT: Final = "Output"

FloatModel = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="MODULE:OBJECT as for maas export, or a bundle that maas export made (a folder, or "
        "a model in a store).",
    ),
]
RecipeName = Annotated[
    str, typer.Option(metavar="NAME", help="Quantization recipe; --list shows all.")
]
ListRecipes = Annotated[bool, typer.Option("--list", help="Show the recipes and exit.")]

Evaluate = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|MODULE:OBJECT",
        show_default="the loss in quality is not measured",
        help="Data or metric that measures quality: an .npz file with inputs and an array "
        "'labels', or MODULE:OBJECT, which is such rows or a metric function of a prediction "
        "function (higher is better).",
        rich_help_panel=_DATA,
    ),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|MODULE:OBJECT",
        show_default="none",
        help="Representative input rows, for recipes that observe activations: an .npy or .npz "
        "file, or MODULE:OBJECT.",
        rich_help_panel=_DATA,
    ),
]
CalibrationRows = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="ROWS",
        help="Largest number of rows read from --calibration.",
        rich_help_panel=_DATA,
    ),
]
Example = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|MODULE:OBJECT",
        show_default="the bundle's own, or rows of --evaluate or --calibration",
        help="Example inputs, as for maas export: an .npy or .npz file, or MODULE:OBJECT.",
        rich_help_panel=_DATA,
    ),
]
FloatWeights = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:OBJECT",
        show_default="those of the model",
        help="Trained weights. Needed for linen modules and apply functions.",
        rich_help_panel=_DATA,
    ),
]

MaxDrop = Annotated[
    float | None,
    typer.Option(
        metavar="METRIC",
        show_default="the recipe's bits everywhere",
        help="Choose bits per weight: the fewest bytes that lower the metric of --evaluate by no "
        "more than this, such as 0.005.",
        rich_help_panel=_LAYERS,
    ),
]
Sensitivities = Annotated[
    bool,
    typer.Option(
        "--sensitivity",
        help="Only show what quantizing each weight alone costs. Writes no bundle.",
        rich_help_panel=_LAYERS,
    ),
]
Bits = Annotated[
    int | None,
    typer.Option(
        metavar="BITS",
        show_default="the recipe's",
        help="Bits per weight.",
        rich_help_panel=_LAYERS,
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        metavar="channel|tensor|N",
        show_default="the recipe's",
        help="Weights that share a scale: an output channel, the whole tensor, or N neighbouring "
        "inputs, such as 64.",
        rich_help_panel=_LAYERS,
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="REGEX",
        show_default="all that the recipe covers",
        help="Quantize only layers or weights whose whole name matches. Repeat it for several.",
        rich_help_panel=_LAYERS,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="REGEX",
        show_default="none",
        help="Leave layers or weights whose whole name matches in float. Repeat it for several.",
        rich_help_panel=_LAYERS,
    ),
]
SkipFirst = Annotated[
    bool,
    typer.Option("--skip-first", help="Leave the first layer in float.", rich_help_panel=_LAYERS),
]
SkipLast = Annotated[
    bool,
    typer.Option("--skip-last", help="Leave the last layer in float.", rich_help_panel=_LAYERS),
]

Decode = Annotated[
    str,
    typer.Option(
        metavar="program|open",
        help="program: weights stay encoded in memory and the program decodes them. open: "
        "weights are decoded while the bundle opens, so only the download is small.",
        rich_help_panel=_SERVING,
    ),
]
Entropy = Annotated[
    str | None,
    typer.Option(
        metavar="zstd|zlib",
        show_default="none",
        # The backslash keeps rich from taking the brackets for markup.
        help="Also compress the stored tensors with this codec. zstd needs maas-sdk\\[zstd].",
        rich_help_panel=_SERVING,
    ),
]
Buckets = Annotated[
    str | None,
    typer.Option(
        metavar="ROWS,…",
        show_default="the bundle's, or 1 to 64 in powers of two",
        help="Batch sizes to compile, in rows: 1,2,4,8.",
        rich_help_panel=_SERVING,
    ),
]
TargetName = Annotated[
    str | None,
    typer.Option(
        metavar="TARGET",
        show_default="this machine",
        help="Machine that will serve the bundle, such as cpu-x86_64-avx2 or tpu-v5e. Recipes that "
        "cannot run there are refused.",
        rich_help_panel=_SERVING,
    ),
]
LatencyRows = Annotated[
    str | None,
    typer.Option(
        metavar="ROWS,…",
        show_default="latency is not measured",
        help="Time the compiled programs of both models at these batch sizes: 1,8,64.",
        rich_help_panel=_SERVING,
    ),
]

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        show_default="NAME-RECIPE.maas",
        help="Folder to write the bundle to.",
        rich_help_panel=_OUTPUT,
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default="the bundle's or the object's name",
        help="Model name.",
        rich_help_panel=_OUTPUT,
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        show_default="no report",
        help="Write the report as a page (.html) or as JSON (.json).",
        rich_help_panel=_OUTPUT,
    ),
]
ReplaceBundle = Annotated[
    bool, typer.Option(help="Replace an existing bundle.", rich_help_panel=_OUTPUT)
]
