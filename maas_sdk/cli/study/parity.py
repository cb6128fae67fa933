"""``maas parity``: loss curves of the same training in full and in reduced precision."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from maas_sdk.cli.options import Debug, Json, Page
from maas_sdk.cli.output import Output, extra, reporting
from maas_sdk.cli.panels import add_command
from maas_sdk.cli.report_file import check_report_file, write_report_file
from maas_sdk.errors import ConfigError

if TYPE_CHECKING:
    from maas_sdk.training.parity.result import ParityResult
    from maas_sdk.training.run.trainer import TrainConfig

__all__ = ["parity", "register"]

# A group of options in the help.
_TRAINING: Final = "Training"


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        parity,
        "maas parity --example digits",
        "maas parity --example digits --policy bf16 --policy int8 --out parity.html",
        "maas parity my_model.py:make_model --data my_data:split --steps 500 --batch-size 256",
    )


def parity(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODULE:OBJECT",
            show_default=False,
            help="The model: an nnx module, or a function that makes one. Needed unless --example "
            "is given.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|MODULE:OBJECT",
            show_default=False,
            help="Rows to train on: an .npz file with arrays inputs and labels, or MODULE:OBJECT, "
            "which is a Split, Examples, or a function that makes one.",
        ),
    ] = None,
    example: Annotated[
        str | None,
        typer.Option(
            metavar="digits",
            show_default="none",
            help="Train a built-in model on its own data instead. Needs maas-sdk\\[demo].",
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POLICY",
            show_default="bf16",
            help="Precision policy to compare with the reference, such as int8 or p=f32,c=bf16. "
            "Repeat it for several.",
        ),
    ] = None,
    reference: Annotated[
        str, typer.Option(metavar="POLICY", help="Precision policy of the reference run.")
    ] = "f32",
    bar: Annotated[
        float | None,
        typer.Option(
            metavar="GAP",
            show_default="0.01; 0.02 for int8 and fp8",
            help="Largest gap between the losses that passes.",
        ),
    ] = None,
    control: Annotated[
        bool,
        typer.Option(
            "--control",
            help="Also repeat the reference run from slightly changed weights, to measure its own "
            "noise.",
        ),
    ] = False,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="COUNT",
            show_default="5, unless --steps is given",
            help="Passes over the rows.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="COUNT",
            show_default="as --epochs says",
            help="Training steps, for rows without an end.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(metavar="ROWS", help="Rows per step.", rich_help_panel=_TRAINING)
    ] = 64,
    optimizer: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Optimizer, such as adamw or sgd.",
            rich_help_panel=_TRAINING,
        ),
    ] = "adamw",
    learning_rate: Annotated[
        float,
        typer.Option(
            metavar="RATE",
            help="Highest learning rate of the schedule.",
            rich_help_panel=_TRAINING,
        ),
    ] = 3e-3,
    loss: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Loss, such as cross_entropy or mse.",
            rich_help_panel=_TRAINING,
        ),
    ] = "cross_entropy",
    seed: Annotated[
        int,
        typer.Option(
            metavar="NUMBER",
            help="Random seed of the order of the rows.",
            rich_help_panel=_TRAINING,
        ),
    ] = 0,
    out: Page = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train the same model in full and in reduced precision, and compare the losses.

    Initial weights, rows and their order are the same. The gap is the mean distance of the two
    losses over the last tenth of the steps. Exits with 1 if it is larger than --bar.

    Needs maas-sdk[train]. See docs/precision.md for the policies.
    """
    with reporting(as_json, debug) as output:
        with extra("train"):
            from maas_sdk.training.optimizer import OptimizerConfig
            from maas_sdk.training.run.trainer import TrainConfig
        # Before two trainings whose page could not be written.
        check_report_file("--out", out, ".html")
        made, rows = _what(model, data, example)
        config = TrainConfig(
            epochs=5 if epochs is None and steps is None else epochs,
            steps=steps,
            batch_size=batch_size,
            seed=seed,
            optimizer=OptimizerConfig(name=optimizer, learning_rate=learning_rate),
            loss=loss,
            # The command draws one bar for each policy; the trainer's would be drawn over it.
            progress=False,
        )
        result = _run(output, made, rows, (reference, *(policy or ["bf16"])), config, bar, control)
        output.lines(result.table())
        output.document(result.to_dict())
        if out is not None:
            from maas_sdk.training.parity.page import comparison_page

            write_report_file(out, comparison_page(result))
            output.note(f"page    {out}")
        if not result.passed:
            raise typer.Exit(1)


def _what(model: str | None, data: str | None, example: str | None) -> tuple[Any, Any]:
    """Load the model and the rows that the words name."""
    if example is not None:
        if model is not None or data is not None:
            raise ConfigError("--example brings a model and rows of its own: leave out the others")
        with extra("demo"):
            from maas_sdk.demo.examples import example as built_in
        return built_in(example)
    if model is None or data is None:
        raise ConfigError(
            "expected a model and its rows, my_model.py:make_model --data my_data:split, "
            "or --example digits"
        )
    from maas_sdk.model.load_object import load_object

    if Path(data).suffix == ".npz":
        from maas_sdk.training.data import read_npz

        return load_object(model), read_npz(Path(data))
    rows = load_object(data)
    return load_object(model), rows() if inspect.isfunction(rows) else rows


def _run(
    output: Output,
    model: Any,
    rows: Any,
    policies: tuple[str, ...],
    config: TrainConfig,
    bar: float | None,
    control: bool,
) -> ParityResult:
    from maas_sdk.training.parity.comparison import parity as compare

    with output.progress() as bars:
        tasks: dict[str, Any] = {}

        def advance(name: str, step: int, steps: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=steps)
            bars.update(tasks[name], completed=step)

        return compare(
            model, rows, policies, config=config, bar=bar, control=control, progress=advance
        )
