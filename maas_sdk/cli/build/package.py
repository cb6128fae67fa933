"""``maas package``: a bundle as a function's folder or zip, or as a container's build folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape

from maas_sdk.cli.options import BundlePlace, Debug, Json, Overwrite
from maas_sdk.cli.output import Output, extra, reporting
from maas_sdk.cli.panels import add_command
from maas_sdk.errors import ConfigError

if TYPE_CHECKING:
    from maas_sdk.deploy.size import Size

__all__ = ["package", "register", "size_table"]

# A group of options in the help.
_CONTAINER: Final = "Container"


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
    out: Annotated[
        Path, typer.Argument(metavar="PATH", help="Folder to write, or a file that ends in .zip.")
    ],
    function: Annotated[
        str,
        typer.Option(
            metavar="predict|batch",
            help="Trigger of the function. predict answers HTTP calls; batch answers objects that "
            "arrive in a bucket.",
        ),
    ] = "predict",
    bundle_from: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            show_default="the bundle goes into the function",
            help="Leave the bundle out. The function fetches it from here when it starts: "
            "<store>/<model>@<version>.",
        ),
    ] = None,
    extras: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="EXTRA",
            show_default="what the bundle needs",
            help="Also install gcp, seal or zstd. Repeat it for several.",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            help="Start the zip in a clean environment and compare the answers of every program "
            "with the golden ones.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    container: Annotated[
        bool,
        typer.Option(
            help="Write the folder that a container image is built from, instead of a function.",
            rich_help_panel=_CONTAINER,
        ),
    ] = False,
    variant: Annotated[
        str,
        typer.Option(
            metavar="cpu|gpu|tpu",
            help="Processor that the container runs on.",
            rich_help_panel=_CONTAINER,
        ),
    ] = "cpu",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a function as a folder or a zip that Cloud Functions runs unchanged.

    It holds main.py, requirements.txt with exact versions and the hash of every file, the bundle,
    and the serving part of maas_sdk with its bytecode. Only what requirements.txt names is fetched
    at deployment. The same input gives the same bytes. Shows the size of each part, and refuses
    what is too large for a function's source. With --container: a Dockerfile and what it copies.

    Needs maas-sdk[serve]. See docs/deploy.md, and docs/batch.md#objects-that-arrive-in-a-bucket for
    --function batch.
    """
    with reporting(as_json, debug) as output:
        # Here, not above: every `maas` command would load it.
        import tempfile

        # The name decides, so no option can contradict it.
        zipped = out.suffix == ".zip"
        if container and (zipped or check or bundle_from or function != "predict"):
            raise ConfigError(
                "--container makes a folder with the bundle in it that serves: leave out .zip, "
                "--check, --bundle-from and --function"
            )
        from maas_sdk.store import find_bundle

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
    """Write the folder or the zip; a folder is zipped as well, for its size and the check."""
    import tempfile

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
            # Asked before the folder appears at its place: what is too large leaves nothing behind.
            accept=lambda folder: check_limits(zip_size(zip_folder(folder, seen))),
        )
        zip_folder(folder, archive, overwrite=overwrite)
        return zip_size(archive)


def _check(output: Output, archive: Path, bundle: Path, function: str) -> dict[str, Any]:
    from dataclasses import asdict

    from maas_sdk.charts.quantities import duration

    with extra("serve"):
        # It runs as a process of its own: the import only finds out whether it is installed.
        import functions_framework  # noqa: F401

        from maas_sdk.deploy.check import check_zip
        from maas_sdk.deploy.check_batch import check_batch_zip

    with output.progress() as bar:
        # Without an end: how long the packages take to install is not known.
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
    """Return a table of a deployment's parts with their sizes."""
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
