"""``maas parity``: does a cheaper precision train the same model?"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maas_sdk.cli.output import Debug, Json, Output, add_command, extra, reporting
from maas_sdk.errors import ConfigError
from maas_sdk.model.load_object import load_object

if TYPE_CHECKING:
    from maas_sdk.training.parity.result import ParityResult
    from maas_sdk.training.run.trainer import TrainConfig

__all__ = ["parity", "register"]


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
            metavar="MODULE:OBJECT", help="An nnx module, or a function that makes one."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Rows to train on: MODULE:OBJECT, or an .npz file with inputs and labels."
        ),
    ] = None,
    example: Annotated[
        str | None,
        typer.Option(help="A built-in model and its data instead of one's own: digits."),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="What to judge, such as int8 or p=f32,c=bf16; repeat for several. Else bf16."
        ),
    ] = None,
    reference: Annotated[str, typer.Option(help="The policy to be compared with.")] = "f32",
    bar: Annotated[
        float | None,
        typer.Option(help="Largest gap that passes; else 0.01, of int8 and fp8 0.02."),
    ] = None,
    control: Annotated[
        bool,
        typer.Option(
            "--control",
            help="Run the reference once more from slightly changed weights: the run's own noise.",
        ),
    ] = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the rows; else 5.")] = None,
    steps: Annotated[int | None, typer.Option(help="Or steps, of rows without an end.")] = None,
    batch_size: Annotated[int, typer.Option(help="Rows per step.")] = 64,
    optimizer: Annotated[str, typer.Option(help="By name, such as adamw or sgd.")] = "adamw",
    learning_rate: Annotated[float, typer.Option(help="The schedule's highest.")] = 3e-3,
    loss: Annotated[str, typer.Option(help="By name, such as cross_entropy or mse.")] = (
        "cross_entropy"
    ),
    seed: Annotated[int, typer.Option(help="Of the order of the rows.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write a page with the curves, .html.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train the same model twice, in full and in cheaper precision, and compare the losses.

    Weights, rows and their order are the same. The gap is the mean distance of the two losses over
    the last tenth of the steps. Exits with 1 if it is beyond the bar.
    """
    with reporting(as_json, debug) as output:
        with extra("train"):
            from maas_sdk.training.optimizer import OptimizerConfig
            from maas_sdk.training.run.trainer import TrainConfig
        if out is not None and (out.suffix != ".html" or not out.resolve().parent.is_dir()):
            raise ConfigError(f"--out {out}: expected a path that ends in .html, in a folder")
        made, rows = _what(model, data, example)
        config = TrainConfig(
            epochs=5 if epochs is None and steps is None else epochs,
            steps=steps,
            batch_size=batch_size,
            seed=seed,
            optimizer=OptimizerConfig(name=optimizer, learning_rate=learning_rate),
            loss=loss,
            progress=False,
        )
        result = _run(output, made, rows, (reference, *(policy or ["bf16"])), config, bar, control)
        output.lines(result.table())
        output.document(result.to_dict())
        if out is not None:
            from maas_sdk.training.parity.page import comparison_page

            out.write_text(comparison_page(result), encoding="utf-8")
            output.note(f"page    {out}")
        if not result.passed:
            raise typer.Exit(1)


def _what(model: str | None, data: str | None, example: str | None) -> tuple[Any, Any]:
    """The model and the rows that the words name."""
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
