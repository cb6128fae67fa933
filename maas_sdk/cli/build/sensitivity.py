"""Cost of quantizing each weight alone, for ``maas quantize --sensitivity``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.text import Text

from maas_sdk.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from maas_sdk.cli.inputs.float_model import Given
    from maas_sdk.compress.allocate import Sensitivity
    from maas_sdk.compress.quantize import Progress

__all__ = ["cost_document", "cost_table", "costs"]


def costs(given: Given, recipe: str, tell: Progress) -> list[Sensitivity]:
    """Measure the task once per weight; return the most sensitive weight first.

    Raises:
        ConfigError: nothing to judge by, a model that is quantized already, or a recipe and
            patterns that do not fit.
    """
    from maas_sdk.compress.allocate import sensitivity
    from maas_sdk.compress.program.calibration import example_of
    from maas_sdk.compress.program.recipes import find_recipe
    from maas_sdk.compress.program.select import chosen
    from maas_sdk.compress.program.traced_model import TracedModel, find_sites
    from maas_sdk.compress.task_metric import judge_of
    from maas_sdk.model.adapt import adapt

    if given.evaluate is None:
        raise ConfigError("--sensitivity: expected --evaluate, which says what a weight costs")
    # What ``maas_sdk.compress`` makes has it, whatever its class.
    if hasattr(given.model, "as_model"):
        raise ConfigError("--sensitivity: the model is quantized already: name the float model")
    found = find_recipe(recipe, **given.changes)
    bare = not isinstance(given.example, Mapping)
    program = TracedModel(model=adapt(given.model, given.weights), bare=bare)
    # Rows are needed only to trace the model with, so two will do.
    example = {name: array[:2] for name, array in example_of(given.example).items()}
    sites = chosen(found, find_sites(program, example, fold=found.fold_norms))
    judge = judge_of(given.evaluate)
    measured = sensitivity(program, sites, found, judge, found.weights, progress=tell)
    # Many weights lower the metric by nothing that can be measured: then the outputs decide.
    return sorted(measured, key=lambda one: (one.drop, one.output_error), reverse=True)


def cost_table(found: list[Sensitivity]) -> Table:
    """Return the costs as a table for people."""
    from rich.table import Table

    table = Table("weight", "format", box=None, pad_edge=False)
    for title in ("drop alone", "±", "outputs move"):
        table.add_column(title, justify="right")
    for one in found:
        table.add_row(
            Text(one.name),
            str(one.format),
            f"{one.drop:+.4f}",
            f"{one.drop_error:.4f}",
            f"{one.output_error**0.5:.2%}",
        )
    return table


def cost_document(found: list[Sensitivity]) -> list[dict[str, Any]]:
    """Return the costs as values of JSON, for ``--json``."""
    return [
        {
            "name": one.name,
            "format": str(one.format),
            "drop": one.drop,
            "drop_error": one.drop_error,
            "output_error": one.output_error,
        }
        for one in found
    ]
