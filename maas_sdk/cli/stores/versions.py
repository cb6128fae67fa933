"""``maas push``, ``pull``, ``list``, ``promote`` and ``gc``: bundles in a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from maas_sdk.cli.options import BundlePlace, Debug, Json, Overwrite
from maas_sdk.cli.output import Output, reporting
from maas_sdk.cli.panels import add_command

if TYPE_CHECKING:
    from maas_sdk.store import Published, Store, StoreReference

__all__ = ["gc", "list_", "promote", "pull", "push", "register", "set_back"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    add_command(
        app,
        push,
        "maas push digits.maas gs://my-bucket/models/digits",
        "maas push digits.maas store/digits@7 --label stable",
        "maas push gs://my-bucket/models/digits@stable gs://other-bucket/models/digits",
    )
    add_command(app, pull, "maas pull gs://my-bucket/models/digits@stable digits.maas")
    add_command(
        app, list_, "maas list gs://my-bucket/models", "maas list store --model digits", name="list"
    )
    add_command(
        app,
        promote,
        "maas promote gs://my-bucket/models/digits@7",
        "maas promote gs://my-bucket/models/digits@7 --label canary",
    )
    add_command(
        app,
        gc,
        "maas gc gs://my-bucket/models --dry-run",
        "maas gc gs://my-bucket/models --keep 10 --older-than-hours 48",
    )


def push(
    bundle: BundlePlace,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Model in a store, such as gs://my-bucket/models/digits. With @7, version 7; "
            "otherwise the next number.",
        ),
    ],
    label: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL",
            show_default="none",
            help="Set this label to the new version in the same step.",
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Publish a bundle as a version of a model in a store.

    Only files that the store lacks are sent; a bundle that lies in a store itself is copied to the
    other one. A version appears whole or not at all, and a repeated push continues an interrupted
    one.

    Buckets need maas-sdk[gcp]. See docs/store.md.
    """
    with reporting(as_json, debug) as output:
        from maas_sdk.errors import ConfigError
        from maas_sdk.store import find_bundle

        store, found = _open(model)
        if found.label is not None:
            raise ConfigError(f"{model}: a label is no version: give it with --label {found.label}")
        version = store.publish(find_bundle(bundle), found.model, found.version, label=label)
        at = f" (label {label} → {version})" if label else ""
        output.lines(f"{found.store}/{found.model}@{version}{at}")
        output.document({**_document(found, version), "label": label})


def pull(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Model in its store, with @version or @label; otherwise the latest version.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="PATH", help="Folder to write the bundle to.")],
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Copy a version of a model into a folder of your own; every byte is checked.

    Buckets need maas-sdk[gcp]. See docs/store.md.
    """
    with reporting(as_json, debug) as output:
        store, found = _open(model)
        bundle = store.copy(found.model, out, found.version, label=found.label, overwrite=overwrite)
        nbytes = sum(entry.size_bytes for entry in bundle.manifest.files.values())
        output.lines(f"{bundle.path!s}  {len(bundle.manifest.files)} files, {nbytes:,} B")
        output.document({"path": str(bundle.path), "nbytes": nbytes})


def list_(
    store: Annotated[
        str,
        typer.Argument(
            metavar="STORE", help="The store: gs://bucket/prefix, a folder, or another store URL."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default="all models", help="List only this model."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the models of a store with their versions, labels and sizes.

    Buckets need maas-sdk[gcp]. See docs/store.md.
    """
    with reporting(as_json, debug) as output:
        from maas_sdk.store import open_store

        opened = open_store(store)
        names = [model] if model is not None else opened.models()
        histories = {name: opened.history(name) for name in names}
        if histories:
            output.show(_table(histories))
        else:
            output.lines(f"no model in {store}: add one with maas push")
        output.document(
            {
                "store": store,
                "models": {
                    name: [found._asdict() for found in history]
                    for name, history in histories.items()
                },
            }
        )


def promote(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Model with its version, such as store/digits@7."),
    ],
    label: Annotated[str, typer.Option(metavar="LABEL", help="Label to move.")] = "stable",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Set a label to a version. Servers that name the label open it from their next start on.

    Buckets need maas-sdk[gcp]. See docs/store.md.
    """
    with reporting(as_json, debug) as output:
        from maas_sdk.errors import ConfigError

        store, found = _open(model)
        # A label or "the latest" would move to whatever was published last.
        if found.version is None:
            raise ConfigError(f"{model}: say which version, such as {found.store}/{found.model}@3")
        before = store.promote(found.model, found.version, label)
        was = f" (was {before})" if before else ""
        output.lines(f"{found.store}/{found.model}: {label} is {found.version}{was}")
        output.document({**_document(found, found.version), "label": label, "before": before})


def set_back(output: Output, model: str, label: str) -> None:
    """Set a model's label back to the version before, for ``maas rollback``."""
    store, found = _open(model)
    version = store.rollback(found.model, label)
    output.lines(f"{found.store}/{found.model}: {label} is {version} again")
    output.document({**_document(found, version), "label": label})


def gc(
    store: Annotated[str, typer.Argument(metavar="STORE", help="The store: gs://bucket/prefix.")],
    keep: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="COUNT",
            show_default="all versions",
            help="Versions to keep per model, the latest ones. Versions that a label points to, or "
            "pointed to before, stay as well; the others are retired.",
        ),
    ] = None,
    older_than_hours: Annotated[
        float,
        typer.Option(
            # The store's MIN_AGE_S: a younger object may be of a push that is still running.
            min=2,
            metavar="HOURS",
            help="Delete only objects that are older, and versions retired for longer.",
        ),
    ] = 24,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be deleted; delete nothing.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Delete objects of a store that no published version needs, such as interrupted uploads.

    It may run while others publish.

    Buckets need maas-sdk[gcp]. See docs/store.md.
    """
    with reporting(as_json, debug) as output:
        from maas_sdk.charts.quantities import data_size
        from maas_sdk.errors import ConfigError
        from maas_sdk.store import open_store
        from maas_sdk.store.remote import RemoteStore

        opened = open_store(store)
        if not isinstance(opened, RemoteStore):
            raise ConfigError(
                f"{store} is a folder of versions, which leaves no garbage: remove the folder of a "
                "version that no server uses"
            )
        done = opened.collect(keep=keep, age_s=older_than_hours * 3600, dry_run=dry_run)
        would = "would be " if dry_run else ""
        for name, versions in done.retired.items():
            output.lines(f"{name}: {would}retired {', '.join(versions)}")
        output.lines(f"{would}deleted: {done.objects} objects, {data_size(done.nbytes)}")
        output.document({**done._asdict(), "dry_run": dry_run})


def _open(model: str) -> tuple[Store, StoreReference]:
    from maas_sdk.store import open_store, parse_reference

    found = parse_reference(model)
    return open_store(found.store), found


def _document(found: StoreReference, version: str) -> dict[str, Any]:
    return {"store": found.store, "model": found.model, "version": version}


def _table(histories: dict[str, list[Published]]) -> Any:
    from rich.table import Table

    from maas_sdk.charts.quantities import data_size

    table = Table(box=None, pad_edge=False)
    for title, justify in (("model", "left"), ("version", "right"), ("labels", "left")):
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    table.add_column("size", justify="right")
    table.add_column("published")
    for name, history in histories.items():
        # The newest first, which is what one looks for.
        for found in reversed(history):
            table.add_row(
                escape(name),
                found.version,
                ", ".join(found.labels),
                data_size(found.total_bytes),
                found.published,
            )
    return table
