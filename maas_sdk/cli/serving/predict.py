"""``maas predict``: predictions for the rows of a file, from a bundle or an endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import unquote, urlsplit

import typer

from maas_sdk.cli.options import (
    BundleOrEndpoint,
    Debug,
    EndpointModel,
    Invert,
    Json,
    ProgramName,
)
from maas_sdk.cli.output import Output, extra, reporting
from maas_sdk.cli.panels import add_command

if TYPE_CHECKING:
    from maas_sdk.tensors import Array, Signature

__all__ = ["endpoint_signature", "predict", "register", "split_url"]

# Rows and values of a row that a terminal is filled with.
_ROWS_SHOWN: Final = 20
_VALUES_SHOWN: Final = 10


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        predict,
        "maas predict digits.maas rows.npy",
        "maas predict digits.maas seven.png --invert",
        "maas predict gs://my-bucket/models/digits@stable rows.npy",
        "maas predict http://127.0.0.1:8080/v1/models/digits rows.npz --out answers.npz",
    )


def predict(
    source: BundleOrEndpoint,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Inputs: .npy (one input), .npz (inputs by name), .json (instances, inputs, or a "
            "list of rows), or an image.",
        ),
    ],
    program: ProgramName = None,
    model: EndpointModel = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            show_default="shown as a table",
            help="Write the answers to this .npz file.",
        ),
    ] = None,
    invert: Invert = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Answer the rows of a file, with a bundle opened here or at a running endpoint.

    An image is scaled to the model's input size; its values become floats from 0 to 1.

    Bundles need maas-sdk[serve], images maas-sdk[demo]; an endpoint needs neither.
    """
    with reporting(as_json, debug) as output:
        if source.startswith(("http://", "https://")):
            outputs = _remote(source, model, program, file, invert)
        else:
            outputs = _local(source, program, file, invert)
        if out is not None:
            from maas_sdk.cli.inputs.arrays import write_outputs

            write_outputs(out, outputs)
            output.show(f"{out}  {', '.join(f'{k} {list(v.shape)}' for k, v in outputs.items())}")
        elif not as_json:
            _show(output, outputs)
        output.document(
            {
                "outputs": {
                    name: {
                        "dtype": array.dtype.name,
                        "shape": list(array.shape),
                        **({} if out else {"data": _plain(array)}),
                    }
                    for name, array in outputs.items()
                },
                **({"path": str(out)} if out else {}),
            }
        )


def _local(place: str, program: str | None, file: Path, invert: bool) -> dict[str, Array]:
    from maas_sdk.cli.inputs.arrays import read_inputs
    from maas_sdk.errors import NotFoundError
    from maas_sdk.store import find_bundle

    with extra("serve"):
        from maas_sdk.runtime import load
    engine = load(find_bundle(place))
    try:
        programs = engine.manifest.programs
        name = program or ("predict" if "predict" in programs else next(iter(programs)))
        if name not in programs:
            raise NotFoundError(
                f"{place}: no program {name!r}; the model has {', '.join(programs)}"
            )
        inputs = read_inputs(file, programs[name].signature, invert=invert)
        return dict(engine.run(inputs, program=name))
    finally:
        engine.close()


def _remote(
    url: str, model: str | None, program: str | None, file: Path, invert: bool
) -> dict[str, Array]:
    from maas_sdk.cli.inputs.arrays import read_inputs
    from maas_sdk.client import Client

    base, named = split_url(url)
    with Client(base, named or model) as client:
        signature = endpoint_signature(client.metadata(), program, url)
        inputs = read_inputs(file, signature, invert=invert)
        answer = client.predict(inputs, program=program)
    # The client gives the array alone where the program has one output.
    if isinstance(answer, Mapping):
        return dict(answer)
    return {next(iter(signature.outputs)): answer}


def split_url(url: str) -> tuple[str, str | None]:
    """Split an endpoint's URL into its address and the model that it names, or None.

    ``http://h/v1/models/digits:predict`` → (``http://h``, ``digits``).
    """
    head, found, tail = url.partition("/v1/models/")
    if not found:
        return url, None
    name = tail.split("/")[0].split(":")[0].split("?")[0]
    return head or f"{urlsplit(url).scheme}://", unquote(name) or None


def endpoint_signature(metadata: Any, program: str | None, url: str) -> Signature:
    """Read a program's signature from metadata in TensorFlow Serving's form."""
    from maas_sdk.errors import InputError
    from maas_sdk.tensors import Signature, TensorSpec
    from maas_sdk.wire.tfserving_metadata import TensorInfo, read_tensors

    def spec(name: str, info: TensorInfo) -> TensorSpec:
        if info.dtype is None:
            raise InputError(
                f"{url}: the metadata has no name for the dtype of {name!r}: call it from Python, "
                "where arrays of any dtype travel as they are"
            )
        return TensorSpec(dtype=info.dtype, shape=info.shape)

    inputs = read_tensors(metadata, program, "inputs", where=url)
    outputs = read_tensors(metadata, program, "outputs", where=url)
    return Signature(
        inputs={name: spec(name, info) for name, info in inputs.items()},
        outputs={name: spec(name, info) for name, info in outputs.items()},
    )


def _plain(array: Array) -> Any:
    # NumPy gives no numbers for bfloat16 and its kin; float32 holds their values exactly.
    return array.astype("float32").tolist() if array.dtype.kind == "V" else array.tolist()


def _show(output: Output, outputs: Mapping[str, Array]) -> None:
    """Print a table with a row per row; for vectors also the index of the largest entry."""
    import numpy as np
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("row", justify="right")
    rows = min((len(a) for a in outputs.values() if a.ndim), default=0)
    columns: list[list[str]] = []
    for name, array in outputs.items():
        flat = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
        table.add_column(name)
        columns.append(
            [
                ", ".join(f"{float(v):.4g}" for v in row[:_VALUES_SHOWN])
                + (", …" if len(row) > _VALUES_SHOWN else "")
                for row in flat[:_ROWS_SHOWN]
            ]
        )
        if flat.shape[1] > 1 and array.dtype.kind in "fV":
            table.add_column(f"largest of {name}", justify="right")
            columns.append([str(int(np.argmax(row))) for row in flat[:_ROWS_SHOWN]])
    # Outputs need not have the same number of rows: the table ends with the shortest.
    for index, values in enumerate(zip(*columns, strict=False)):
        table.add_row(str(index), *values)
    output.show(table)
    if rows > _ROWS_SHOWN:
        output.show(f"… and {rows - _ROWS_SHOWN:,} more rows; --out answers.npz writes all")
