"""``maas evaluate``: quality, latency and memory of a bundle or an endpoint, on labelled rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from maas_sdk.cli.options import (
    BundleOrEndpoint,
    Debug,
    EndpointModel,
    Json,
    Page,
    ProgramName,
)
from maas_sdk.cli.output import extra, reporting
from maas_sdk.cli.panels import add_command
from maas_sdk.cli.report_file import check_report_file, write_report_file

if TYPE_CHECKING:
    from maas_sdk.evaluate import Evaluation
    from maas_sdk.tensors import Array, Signature

__all__ = ["evaluate", "register"]

# A group of options in the help.
_SPEED: Final = "Speed"


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        evaluate,
        "maas evaluate digits.maas test.npz",
        "maas evaluate http://127.0.0.1:8080/v1/models/digits test.npz --out report.html",
        "maas evaluate digits.maas test.npz --against digits-int8.maas",
        "maas evaluate digits.maas test.npz --against gs://my-bucket/models/digits@stable",
    )


def evaluate(
    source: BundleOrEndpoint,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Labelled rows: an .npz file with the program's inputs and an array of labels.",
        ),
    ],
    labels: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the array of labels in FILE.")
    ] = "labels",
    against: Annotated[
        str | None,
        typer.Option(
            metavar="BUNDLE|URL",
            show_default="no comparison",
            help="Evaluate this second model too, and show both side by side with the change.",
        ),
    ] = None,
    program: ProgramName = None,
    model: EndpointModel = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            metavar="NAME",
            show_default="the only one",
            help="Output to compare with the labels, if the program has several.",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="classification|regression|language",
            show_default="by the labels' dtype and shape",
            help="Kind of labels, which decides the metrics.",
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            metavar="ROWS",
            help="Rows per call when rows per second are measured.",
            rich_help_panel=_SPEED,
        ),
    ] = 64,
    calls: Annotated[
        int,
        typer.Option(
            metavar="COUNT",
            help="Calls of one row when latency is measured.",
            rich_help_panel=_SPEED,
        ),
    ] = 50,
    out: Page = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a model on labelled rows: quality, latency, rows per second, memory.

    Integer labels are classes; with a second dimension they are a language model's tokens. Float
    labels are a regression. Latency is that of one row.

    Needs maas-sdk[train], maas-sdk[serve] for bundles, and maas-sdk[evaluate] for classes. See
    docs/evaluation.md for the figures.
    """
    # Not ``output`` as elsewhere: that is an option of this command.
    with reporting(as_json, debug) as said:
        with extra("train"):
            from maas_sdk.evaluate import compare_page, compare_table, evaluation_page, text_table
        # Before the measuring, which takes its time.
        check_report_file("--out", out, ".html", ".htm")
        how = _How(
            file=file,
            labels=labels,
            program=program,
            model=model,
            options={
                "output": output,
                "task": task,
                "batch_size": batch_size,
                "latency_calls": calls,
            },
        )
        arrays = _read(file, labels)
        first = _judge(source, arrays, how)
        second = None if against is None else _judge(against, arrays, how)
        if second is None:
            said.show(text_table(first))
            said.document(first.to_dict())
        else:
            said.show(compare_table(first, second))
            said.document({"evaluations": [first.to_dict(), second.to_dict()]})
        if out is not None:
            write_report_file(
                out, evaluation_page(first) if second is None else compare_page(first, second)
            )
            said.note(f"page    {out}")


class _How(NamedTuple):
    """Options that hold for both sides of a comparison."""

    file: Path
    labels: str
    program: str | None
    # Needed at an address that does not name the model.
    model: str | None
    # Arguments of ``maas_sdk.evaluate.evaluate``.
    options: dict[str, Any]


def _read(file: Path, labels: str) -> dict[str, Array]:
    from maas_sdk.errors import InputError
    from maas_sdk.tables.numpy_file import read_arrays

    arrays = read_arrays(file)
    if labels not in arrays:
        raise InputError(
            f"{file}: no array {labels!r}; it has {', '.join(arrays) or 'none'}. "
            "Say which holds the labels: --labels NAME"
        )
    if len(arrays) == 1:
        raise InputError(f"{file}: only the labels are there; put the inputs beside them")
    return arrays


def _judge(target: str, arrays: dict[str, Array], how: _How) -> Evaluation:
    import dataclasses

    from maas_sdk.evaluate import evaluate as judge

    with _opened(target, how) as (call, signature, where):
        data = (_inputs(arrays, signature, how), arrays[how.labels])
        name = target if "://" in target else Path(target).name
        return dataclasses.replace(judge(call, data, name=name, **how.options), where=where)


@contextmanager
def _opened(target: str, how: _How) -> Iterator[tuple[Any, Signature, str]]:
    """Open the target: a function that answers, its signature, and its place in words."""
    if target.startswith(("http://", "https://")):
        from maas_sdk.cli.serving.predict import endpoint_signature, split_url
        from maas_sdk.client import Client

        base, named = split_url(target)
        with Client(base, named or how.model) as client:
            signature = endpoint_signature(client.metadata(), how.program, target)
            yield lambda inputs: client.predict(inputs, program=how.program), signature, "over HTTP"
        return
    with extra("serve"):
        from maas_sdk.runtime import load
    from maas_sdk.errors import NotFoundError
    from maas_sdk.store import find_bundle

    with load(find_bundle(target)) as engine:
        programs = engine.manifest.programs
        name = how.program or ("predict" if "predict" in programs else next(iter(programs)))
        if name not in programs:
            raise NotFoundError(
                f"{target}: no program {name!r}; the model has {', '.join(programs)}"
            )
        where = f"in this process, tier {engine.report.tier}"
        yield lambda inputs: engine.run(inputs, program=name), programs[name].signature, where


def _inputs(arrays: dict[str, Array], signature: Signature, how: _How) -> dict[str, Array]:
    """Return the file's other arrays under the program's names."""
    import numpy as np

    from maas_sdk.errors import InputError
    from maas_sdk.tensors import dtype_from_name

    others = {name: array for name, array in arrays.items() if name != how.labels}
    wanted = signature.inputs
    if len(others) == 1 and len(wanted) == 1:
        # One array and one input: the array's name does not matter.
        others = dict(zip(wanted, others.values(), strict=True))
    if others.keys() != wanted.keys():
        raise InputError(
            f"{how.file}: besides {how.labels!r} it has {', '.join(sorted(others))}; "
            f"the program takes {', '.join(sorted(wanted))}"
        )
    # float64, which numpy makes unasked, becomes the float that the model wants.
    return {
        name: array.astype(dtype_from_name(wanted[name].dtype))
        if np.issubdtype(array.dtype, np.floating)
        else array
        for name, array in others.items()
    }
