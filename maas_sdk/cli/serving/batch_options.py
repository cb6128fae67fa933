"""Arguments and options of ``maas batch``, in the groups that its help shows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

__all__ = [
    "AnswerFormat",
    "AnswersFolder",
    "CompiledRows",
    "FiniteOnly",
    "IdColumn",
    "IgnoredColumns",
    "InputColumns",
    "InputFile",
    "InvertImages",
    "PartRows",
    "ProgramToRun",
    "ReplaceAnswers",
    "Resize",
    "Resume",
]

_ROWS: Final = "Rows and columns"
_IMAGES: Final = "Images"
_SPEED: Final = "Program and sizes"
_ANSWERS: Final = "Answers"

InputFile = Annotated[
    Path,
    typer.Argument(
        metavar="INPUT",
        help="Rows to answer: a .npy, .npz, .parquet, .csv or .jsonl file, an image, or a folder "
        "of images.",
    ),
]

AnswersFolder = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        help="Folder to write the answers to.",
        rich_help_panel=_ANSWERS,
    ),
]
AnswerFormat = Annotated[
    str,
    typer.Option(
        metavar="parquet|jsonl|npz",
        help="File format of the answers.",
        rich_help_panel=_ANSWERS,
    ),
]
PartRows = Annotated[
    int | None,
    typer.Option(
        metavar="ROWS",
        show_default="rows that make files of about 32 MiB",
        help="Rows per file of answers.",
        rich_help_panel=_ANSWERS,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Keep the answers of an interrupted run and continue after them.",
        rich_help_panel=_ANSWERS,
    ),
]
ReplaceAnswers = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace existing answers.", rich_help_panel=_ANSWERS),
]

IdColumn = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        show_default="the row's number from 0, as row",
        help="ID column, copied to the answers.",
        rich_help_panel=_ROWS,
    ),
]
InputColumns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="INPUT=COLUMN,…",
        show_default="columns named like the inputs",
        help="Columns that make up an input of the program. Repeat it for several inputs.",
        rich_help_panel=_ROWS,
    ),
]
IgnoredColumns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN",
        show_default="none",
        help="Column to leave out when an input takes all columns. Repeat it for several.",
        rich_help_panel=_ROWS,
    ),
]
FiniteOnly = Annotated[
    bool,
    typer.Option(
        "--finite",
        help="Do not answer rows that contain NaN or infinity.",
        rich_help_panel=_ROWS,
    ),
]

Resize = Annotated[
    bool,
    typer.Option(
        "--resize",
        help="Scale images to the model's input size. Without it, images of another size are not "
        "answered.",
        rich_help_panel=_IMAGES,
    ),
]
InvertImages = Annotated[
    bool,
    typer.Option(
        "--invert",
        help="Invert grayscale images (black becomes 1.0), for models trained on ink on paper.",
        rich_help_panel=_IMAGES,
    ),
]

ProgramToRun = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default="predict, or the first program",
        help="Program of the model to run.",
        rich_help_panel=_SPEED,
    ),
]
CompiledRows = Annotated[
    int | None,
    typer.Option(
        metavar="ROWS",
        show_default="the fastest per row when the bundle was verified",
        help="Compiled batch size that rows are gathered into.",
        rich_help_panel=_SPEED,
    ),
]
