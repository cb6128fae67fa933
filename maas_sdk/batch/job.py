"""Offline prediction: the rows of a file through a bundle, answers into files beside their keys.

The rule it keeps: every row of the input is in exactly one file of answers, or in exactly one file
of rows that were not answered, with the reason; after a kill the files that are there stay, and the
run is taken up behind them. Reading, computing and writing go on at the same time, and memory
holds a few chunks and two parts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from maas_sdk.batch.compute import Run, assemble
from maas_sdk.batch.config import BatchConfig
from maas_sdk.batch.destination import Destination, Folder
from maas_sdk.batch.fingerprint import differences, fingerprint, identity
from maas_sdk.batch.parts import (
    DONE,
    JOB,
    OutputPart,
    bad_name,
    check_outputs,
    finished,
    is_ours,
    part_name,
)
from maas_sdk.batch.progress import Meter, Progress
from maas_sdk.batch.read_ahead import ahead, short_turns
from maas_sdk.batch.row_counts import Sizes
from maas_sdk.bundle.folder import open_bundle
from maas_sdk.bundle.manifest import MANIFEST, Manifest
from maas_sdk.errors import ConfigError, InputError, MaasError, NotFoundError
from maas_sdk.runtime.load import load
from maas_sdk.tables.chunk import Chunk
from maas_sdk.tables.open_table import RowSource, open_table
from maas_sdk.tensors import Signature

__all__ = ["BatchJob", "BatchReport", "Mode", "predict_files"]

# What is done about answers that are there: "new" refuses, "resume" goes on behind those of the
# same job, "overwrite" removes them.
Mode = Literal["new", "resume", "overwrite"]

# Chunks and parts that may wait for the stage behind.
_CHUNKS: Final = 2
_PARTS: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchReport:
    """Counts of rows at the end of a batch prediction."""

    # Of the input; rows = answered + bad.
    rows: int
    answered: int
    bad: int
    # Files of answers.
    parts: int
    # Of this run: rows that it read and answered or set aside, and its time without loading.
    run_rows: int
    run_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchJob:
    """A batch prediction that has been checked, but not begun."""

    bundle: Path
    program: str
    manifest: Manifest
    config: BatchConfig
    sizes: Sizes
    source: RowSource
    # What it is of; its fingerprint binds answers to it.
    document: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        bundle: str | os.PathLike[str],
        file: str | os.PathLike[str],
        config: BatchConfig,
        *,
        same: Mapping[str, object] | None = None,
    ) -> BatchJob:
        """Return a checked job; nothing is loaded or written.

        Args:
            bundle: its folder.
            file: the input; see ``open_table``.
            config: the options.
            same: what tells the input from another; None: its size and time of change.

        Raises:
            NotFoundError: no bundle there, or no such program in it.
            InputError: the input is not there, cut, damaged or of other columns.
            ConfigError: options that do not go with the bundle or the input.
            DependencyError: a package that reads the input is not installed.
            BundleError: the bundle cannot be used.
        """
        opened, path = open_bundle(bundle), Path(file)
        programs = opened.manifest.programs
        default = "predict" if "predict" in programs else next(iter(programs))
        name = config.program if config.program is not None else default
        if name not in programs:
            raise NotFoundError(
                f"{bundle}: no program {name!r}; the model has {', '.join(programs)}"
            )
        program = programs[name]
        _check_signature(name, program.signature)
        sizes = Sizes.of(program, part_rows=config.part_rows, bucket=config.bucket)
        source = open_table(path, program.signature.inputs, config, chunk_rows=sizes.chunk_rows)
        check_outputs(program.signature, config.format, source.key)
        return cls(
            bundle=opened.path,
            program=name,
            manifest=opened.manifest,
            config=config,
            sizes=sizes,
            source=source,
            document={
                "input": dict(identity(path) if same is None else same),
                "bundle": {"manifest_sha256": _sha256(opened.path / MANIFEST)},
                "options": {
                    **config.document(),
                    "program": name,
                    "part_rows": sizes.part_rows,
                    "bucket": sizes.bucket,
                },
            },
        )

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the job's document, 64 hex digits."""
        return fingerprint(self.document)

    def done(self, place: Destination) -> BatchReport | None:
        """Return the report of the job if it is all done there."""
        if DONE not in (names := place.names()) or JOB not in names:
            return None
        self.check(place)
        found = json.loads(place.read(DONE))
        return BatchReport(**{**found, "run_rows": 0, "run_s": 0.0})

    def check(self, place: Destination) -> None:
        """Raise ``ConfigError`` if the files there belong to another job."""
        names = place.names()
        if JOB in names:
            try:
                found = json.loads(place.read(JOB))
            except ValueError:
                found = {}
            if other := differences(found, dict(self.document)):
                raise ConfigError(
                    f"the answers that are there are of another job; {'; '.join(other[:4])}: "
                    "choose another folder, or --overwrite them"
                )
        elif names:
            raise ConfigError(
                f"there are other files ({', '.join(sorted(names)[:3])}) and no {JOB}: it is no "
                "batch prediction that could be resumed; choose another folder"
            )

    def run(
        self, place: Destination, *, progress: Callable[[Progress], None] | None = None
    ) -> BatchReport:
        """Do the unfinished work. Raises as ``predict_files``."""
        if (report := self.done(place)) is not None:
            return report
        self.check(place)
        engine = load(self.bundle)
        try:
            with short_turns():
                return self._run(place, partial(engine.run, program=self.program), progress)
        finally:
            engine.close()

    def _run(
        self, place: Destination, run: Run, progress: Callable[[Progress], None] | None
    ) -> BatchReport:
        names = place.names()
        there = finished(names, self.fingerprint)
        bad = sum(self._bad_rows(place, names, index) for index in there)
        first = next(k for k in range(len(there) + 1) if k not in there) * self.sizes.part_rows
        source = self.source
        meter = Meter(progress, total=source.rows)
        end = _End(min(first, source.rows) if source.rows is not None else 0)
        signature = self.manifest.programs[self.program].signature
        begun = JOB in names
        with ahead(end.watch(source.read(first)), depth=_CHUNKS, name="maas-read") as chunks:
            parts = assemble(
                chunks, run, signature, self.sizes, finished=frozenset(there), meter=meter
            )
            with ahead(parts, depth=_PARTS, name="maas-compute") as answered:
                for part in answered:
                    if not begun:
                        place.put(JOB, _json(self.document))
                        begun = True
                    self._write(place, part)
                    there.add(part.index)
        if not end.row:
            raise InputError("the input has no rows")
        bad += meter.bad
        report = BatchReport(
            rows=end.row,
            answered=end.row - bad,
            bad=bad,
            parts=len(there),
            run_rows=meter.rows,
            run_s=round(meter.elapsed_s, 3),
        )
        place.put(DONE, _json(asdict(report)))
        return report

    def _write(self, place: Destination, part: OutputPart) -> None:
        """Write a part; the file whose name marks it done comes last."""
        kind, key = self.config.format, self.source.key
        if part.bad:
            name = bad_name(part.index, self.fingerprint)
            place.put(name, lambda path: part.write_bad(path, key))
        name = part_name(part.index, self.fingerprint, kind)
        place.put(name, lambda path: part.write(path, kind, key))

    def _bad_rows(self, place: Destination, names: set[str], index: int) -> int:
        """Count the rows of a finished part without an answer."""
        name = bad_name(index, self.fingerprint)
        return place.read(name).count(b"\n") if name in names else 0


def predict_files(
    bundle: str | os.PathLike[str],
    file: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: BatchConfig | None = None,
    *,
    mode: Mode = "new",
    progress: Callable[[Progress], None] | None = None,
) -> BatchReport:
    """Answer all rows of a file.

    Args:
        bundle: the bundle's folder.
        file: .npy, .npz, .parquet, .csv, .jsonl, an image or a folder of images.
        out: folder for ``part-….parquet`` (or .jsonl, .npz), ``bad-….jsonl``, ``job.json`` and, at
            the end, ``done.json``.
        config: the options; None: all defaults.
        mode: what is done about answers that are there.
        progress: called now and then, from the thread that computes.

    Raises:
        NotFoundError: no bundle there, or no such program in it.
        InputError: the input is not there, has other columns, no rows, or turns out to be cut or
            damaged; what was answered before stays.
        ConfigError: options that do not go together; answers are there already, or those of another
            job.
        DependencyError: a package is not installed.
        BundleError: the bundle cannot be used here.
        StorageError: the disk is full, or the folder cannot be written to.
        ModelError: the model failed while it ran.
    """
    job = BatchJob.of(bundle, file, config or BatchConfig())
    with Folder(Path(out)) as place:
        _make_way(place, job, mode)
        try:
            return job.run(place, progress=progress)
        except MaasError as error:
            done = finished(place.names(), job.fingerprint)
            if not done:
                raise
            raise type(error)(
                f"{error.message} ({len(done)} finished parts stay in {out})",
                retry_after_s=error.retry_after_s,
                **error.evidence,
            ) from error


def _make_way(place: Folder, job: BatchJob, mode: Mode) -> None:
    """Clear or check the folder, as the mode says."""
    names = place.names()
    if not names:
        return
    if mode == "new":
        raise ConfigError(
            f"{place.path} is not empty: choose another folder, or go on with the answers that are "
            "there with --resume, or replace them with --overwrite"
        )
    if mode == "resume":
        try:
            job.check(place)
        except ConfigError as error:
            raise ConfigError(f"{place.path}: {error.message}") from error
        return
    if other := sorted(name for name in names if not is_ours(name)):
        raise ConfigError(
            f"{place.path}: there are other files too ({', '.join(other[:3])}), so nothing is "
            "removed: choose another folder"
        )
    place.clear()


def _check_signature(program: str, signature: Signature) -> None:
    """Refuse, with ``ConfigError``, a program that does not map rows to rows."""
    for kind, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for name, spec in specs.items():
            if spec.shape[:1] != (None,):
                raise ConfigError(
                    f"program {program!r}: {kind} {name!r} is {spec}, which has no row for each "
                    "row of a file: batch prediction needs programs whose first dimension is open"
                )
    if not signature.inputs:
        raise ConfigError(f"program {program!r} has no inputs: there is nothing to read rows for")


class _End:
    """Tracks the end of the input."""

    def __init__(self, row: int) -> None:
        # Number of the row behind the last one seen.
        self.row = row

    def watch(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            self.row = chunk.stop
            yield chunk


def _json(value: Mapping[str, Any]) -> Callable[[Path], None]:
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    return write


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
