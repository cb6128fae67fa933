"""``maas package``: a bundle as a function, or as what an image is built from."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from maas_sdk.cli.output import (
    BundlePlace,
    Debug,
    Json,
    Output,
    add_command,
    extra,
    reporting,
)
from maas_sdk.errors import ConfigError

if TYPE_CHECKING:
    from maas_sdk.deploy.size import Size

__all__ = ["package", "register", "size_table"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        package,
        "maas package digits.maas digits-function",
        "maas package digits.maas digits-function.zip --check",
        "maas package gs://my-models/store/digits@stable digits-function.zip",
        "maas package large.maas large.zip --bundle-from gs://my-models/store/large@3",
        "maas package digits.maas digits-batch.zip --function batch",
        "maas package digits.maas digits-image --container --variant gpu",
    )


def package(
    bundle: BundlePlace,
    out: Annotated[Path, typer.Argument(help="Folder to make, or a .zip file.")],
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
    function: Annotated[
        str,
        typer.Option(help="predict: answers calls; batch: objects that arrive in a bucket."),
    ] = "predict",
    bundle_from: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Leave the bundle out; the function fetches <store>/<model>@<version> at start.",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Start the zip in a clean environment and call it.")
    ] = False,
    container: Annotated[
        bool, typer.Option(help="Make the folder that a container image is built from.")
    ] = False,
    variant: Annotated[
        str, typer.Option(help="What the container runs on: cpu, gpu or tpu.")
    ] = "cpu",
    extras: Annotated[
        list[str] | None,
        typer.Option("--with", help="Install more: gcp, seal or zstd; can be repeated."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a function folder (or a zip of one) that Cloud Functions can run as it is.

    It holds main.py, requirements.txt with exact versions and hashes, the bundle and the serving
    part of maas_sdk; nothing of it is fetched from anywhere but what requirements.txt names. The
    same input gives the same bytes. With --container: a Dockerfile and what it copies.
    """
    with reporting(as_json, debug) as output:
        zipped = out.suffix == ".zip"
        if container and (zipped or check or bundle_from or function != "predict"):
            raise ConfigError(
                "--container makes a folder with the bundle in it that serves: leave out .zip, "
                "--check, --bundle-from and --function"
            )
        from maas_sdk.store.resolve import find_bundle

        folder = find_bundle(bundle)
        if container:
            from maas_sdk.deploy.container import container as make_container
            from maas_sdk.deploy.size import folder_size

            made = make_container(folder, out, variant=variant, overwrite=overwrite)
            _show(output, out, folder_size(made), {"variant": variant})
            return
        with tempfile.TemporaryDirectory(prefix="maas-package-") as scratch:
            archive = out if zipped else Path(scratch) / "function.zip"
            size = _function(
                folder,
                out,
                archive,
                overwrite,
                function=function,
                bundle_from=bundle_from,
                extras=tuple(extras or ()),
            )
            found = _check(output, archive, folder, function) if check else None
        _show(output, out, size, {} if found is None else {"check": found})


def _function(
    bundle: Path,
    out: Path,
    archive: Path,
    overwrite: bool,
    **options: Any,
) -> Size:
    """Write the folder or the zip; of a folder a zip is made too, for its size and the check."""
    from maas_sdk.deploy.archive import zip_folder
    from maas_sdk.deploy.package import package as make
    from maas_sdk.deploy.size import check_limits, zip_size

    with tempfile.TemporaryDirectory(prefix="maas-package-") as scratch:
        seen = Path(scratch) / "seen.zip"
        zipped = archive == out
        folder = make(
            bundle,
            Path(scratch) / "function" if zipped else out,
            overwrite=overwrite,
            **options,
            accept=lambda folder: check_limits(zip_size(zip_folder(folder, seen))),
        )
        zip_folder(folder, archive, overwrite=overwrite)
        return zip_size(archive)


def _check(output: Output, archive: Path, bundle: Path, function: str) -> dict[str, Any]:
    from dataclasses import asdict

    from maas_sdk.charts.quantities import duration

    with extra("serve"):
        import functions_framework  # noqa: F401

        from maas_sdk.deploy.check import check_zip
        from maas_sdk.deploy.check_batch import check_batch_zip

    with output.progress() as bar:
        bar.add_task("check", total=None)
        checks = {"predict": check_zip, "batch": check_batch_zip}
        found = checks[function](archive, bundle=bundle)
    rows = ", ".join(f"{name} {rows}" for name, rows in found.programs.items())
    where = "an environment of its own" if found.environment == "installed" else "this interpreter"
    output.show(
        f"[green]right answers[/green] in {where} ({escape(found.why)}): golden rows of {rows}; "
        f"zip to first answer {duration(found.first_answer_s)}, tier {found.tier}"
    )
    return asdict(found)


def _show(output: Output, out: Path, size: Size, more: dict[str, Any]) -> None:
    from dataclasses import asdict

    from maas_sdk.charts.quantities import data_size

    output.show(size_table(size))
    zipped = f", {data_size(size.zipped_nbytes)} zipped" if size.zipped_nbytes else ""
    output.show(f"{escape(str(out))}  {size.files} files, {data_size(size.nbytes)}{zipped}")
    output.document(
        {"path": str(out), "files": size.files, "nbytes": size.nbytes, **asdict(size), **more}
    )


def size_table(size: Size) -> Any:
    """A deployment's parts, with their sizes."""
    from rich.table import Table

    from maas_sdk.charts.quantities import data_size

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("part")
    for title in ("files", "size", "zipped"):
        table.add_column(title, justify="right")
    for part in size.parts:
        zipped = "–" if part.zipped_nbytes is None else data_size(part.zipped_nbytes)
        table.add_row(part.name, f"{part.files:,}", data_size(part.nbytes), zipped)
    return table
