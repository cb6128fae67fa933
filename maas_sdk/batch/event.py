"""Answers to an object that arrives in a bucket: the work behind ``functions/batch``.

The rule it keeps: events come at least once, late, and in any order, so what an event asks for is
named by what it is about. The answers to generation G of an object lie under
``<output>/<object>/<G>/``; what lies there already is not done again. An input that can never be
answered is said to be in ``failed.json`` there, and the event is over; whatever else goes wrong is
raised, so that the platform sends the event again.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple, Self

from maas_sdk.batch.config import BatchConfig
from maas_sdk.batch.destination import ObjectPlace
from maas_sdk.batch.job import BatchJob
from maas_sdk.batch.parts import DONE
from maas_sdk.errors import ConfigError, InputError, MaasError, NotFoundError
from maas_sdk.store import find_bundle
from maas_sdk.store.objects import Objects
from maas_sdk.store.transfer import download
from maas_sdk.tables.open_table import SUFFIXES

__all__ = ["FAILED", "FINALIZED", "Arrived", "EventConfig", "answer", "on_event"]

# https://cloud.google.com/eventarc/docs/reference/supported-events
FINALIZED: Final = "google.cloud.storage.object.v1.finalized"
FAILED: Final = "failed.json"
# https://cloud.google.com/storage/quotas: the largest object.
_OBJECT_BYTES: Final = 5 * 2**40


class Arrived(NamedTuple):
    """A generation of an object, as an event names it."""

    bucket: str
    name: str
    generation: int

    @classmethod
    def of(cls, kind: object, data: object) -> Self:
        """Read an event.

        Args:
            kind: its type.
            data: its data, an object of the storage API.

        Raises:
            InputError: another type of event, or data that names no generation of an object.
        """
        if kind != FINALIZED:
            raise InputError(f"expected an event of type {FINALIZED}, got {str(kind)[:80]!r}")
        try:
            fields: Any = data
            bucket, name, generation = (fields[f] for f in ("bucket", "name", "generation"))
            found = cls(bucket, name, int(generation))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                "expected an event whose data has bucket, name and generation, got "
                f"{str(data)[:120]}"
            ) from error
        if not all(isinstance(text, str) and text for text in found[:2]):
            raise InputError(f"expected names of a bucket and an object, got {found[:2]}")
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class EventConfig:
    """Options of the function: objects to answer, and the place of the answers."""

    # gs://bucket/prefix; in the bucket that is watched, or in another.
    output: str
    # Objects whose names begin otherwise are left alone.
    watched: str = ""
    options: BatchConfig = field(default_factory=BatchConfig)

    def __post_init__(self) -> None:
        bucket, _, prefix = self.output.removeprefix("gs://").partition("/")
        if not self.output.startswith("gs://") or not bucket or not prefix.strip("/"):
            raise ConfigError(f"output: expected gs://BUCKET/PREFIX, got {self.output!r}")

    @property
    def place(self) -> tuple[str, str]:
        """Bucket and prefix of the answers; the prefix ends in a slash."""
        bucket, _, prefix = self.output.removeprefix("gs://").partition("/")
        return bucket, prefix.strip("/") + "/"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read ``MAAS_OUTPUT`` and the other variables; see docs/batch.md.

        Raises:
            ConfigError: no output, or an option that is none.
        """
        columns = (text.partition("=") for text in environ.get("MAAS_COLUMNS", "").split(";"))

        def whole(name: str) -> int | None:
            text = environ.get(name, "")
            if text and not text.isdecimal():
                raise ConfigError(f"{name}: expected a whole number, got {text!r}")
            return int(text) if text else None

        return cls(
            output=environ.get("MAAS_OUTPUT", ""),
            watched=environ.get("MAAS_INPUT_PREFIX", ""),
            options=BatchConfig(
                format=environ.get("MAAS_FORMAT", "parquet"),
                program=environ.get("MAAS_PROGRAM") or None,
                key=environ.get("MAAS_KEY") or None,
                columns={name: tuple(found.split(",")) for name, _, found in columns if name},
                ignore=tuple(filter(None, environ.get("MAAS_IGNORE", "").split(","))),
                finite=environ.get("MAAS_FINITE", "") == "1",
                resize=environ.get("MAAS_RESIZE", "") == "1",
                invert=environ.get("MAAS_INVERT", "") == "1",
                bucket=whole("MAAS_BUCKET"),
                part_rows=whole("MAAS_PART_ROWS"),
            ),
        )


def on_event(
    bundle: str | os.PathLike[str], config: EventConfig | None = None
) -> Callable[[Any], None]:
    """Return a function for functions-framework, of signature type ``cloudevent``.

    Args:
        bundle: path of the bundle's folder, or a model in a store,
            ``<store URL>/<model>@<version>``, which is fetched when the first event comes.
        config: None: as the environment has it.

    Raises:
        ConfigError: the environment lacks the output, or holds an option that is none.
    """
    chosen = config or EventConfig.from_environ(os.environ)

    def batch(event: Any) -> None:
        try:
            arrived = Arrived.of(event["type"], event.data)
        except InputError as error:
            # Sent again it would be the same: it is said, and over.
            _log("WARNING", error.message)
            return
        try:
            _log("INFO", answer(find_bundle(bundle), arrived, chosen), arrived)
        except MaasError as error:
            _log("ERROR", error.message, arrived)
            raise

    return batch


def answer(bundle: str | os.PathLike[str], arrived: Arrived, config: EventConfig) -> str:
    """Answer an object's rows, unless they are answered already.

    Returns:
        What was done, in words.

    Raises:
        ConfigError: options that do not go with the bundle.
        CredentialsError: no access to a bucket.
        TransportError: the bucket could not be reached.
        BundleError: the bundle cannot be used here.
        StorageError: the disk is full.
        ModelError: the model failed while it ran.
    """
    target, prefix = config.place
    suffix = PurePosixPath(arrived.name).suffix.lower()
    if arrived.bucket == target and arrived.name.startswith(prefix):
        return "left alone: it is one of the answers"
    if not arrived.name.startswith(config.watched) or suffix not in SUFFIXES:
        return "left alone: it is no input"
    place = ObjectPlace(_objects(target, f"{prefix}{arrived.name}/{arrived.generation}"))
    names = place.names()
    if FAILED in names:
        return "nothing to do: it was found to be no input that can be answered"
    if DONE in names:
        return "nothing to do: its rows are answered"
    with tempfile.TemporaryDirectory(prefix="maas-batch-") as folder:
        # Its own name may be too long for a file, or climb out of the folder.
        path = Path(folder) / f"input{suffix}"
        if not _fetch(_objects(arrived.bucket), arrived, path):
            return "nothing to do: the object was deleted or replaced since"
        same = {"bucket": arrived.bucket, "name": arrived.name, "generation": arrived.generation}
        try:
            report = BatchJob.of(bundle, path, config.options, same=same).run(place)
        except InputError as error:
            said = {
                "error": error.message.replace(str(path), f"gs://{arrived.bucket}/{arrived.name}")
            }
            place.put(FAILED, lambda file: _write(file, json.dumps(said) + "\n"))
            return f"cannot be answered: {said['error']}"
    return (
        f"{report.answered} rows answered, {report.bad} not, {report.parts} files under "
        f"gs://{target}/{prefix}{arrived.name}/{arrived.generation}/"
    )


def _objects(bucket: str, prefix: str = "") -> Objects:
    # Only here: what reads events is tried out without a bucket.
    from maas_sdk.store.gcs import GcsObjects

    # In one request however large: parts of an object would lie among the answers.
    return GcsObjects(bucket, prefix, part_bytes=_OBJECT_BYTES)


def _fetch(objects: Objects, arrived: Arrived, path: Path) -> bool:
    """Download that generation of the object; False if it is gone."""
    info = objects.stat(arrived.name)
    if info is None or info.generation != arrived.generation:
        return False
    try:
        download(objects, info, path)
    except NotFoundError:
        return False
    return True


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def _log(severity: str, message: str, arrived: Arrived | None = None) -> None:
    """Write a line that Cloud Logging reads."""
    about = {} if arrived is None else arrived._asdict()
    print(json.dumps({"severity": severity, "message": message, **about}), flush=True)
