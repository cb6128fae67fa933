"""``maas batch``: predictions for all rows of a file, resumable after a kill."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from maas_sdk.cli.options import BundlePlace, Debug, Json
from maas_sdk.cli.output import Output, extra, reporting
from maas_sdk.cli.panels import add_command
from maas_sdk.cli.serving import batch_options as options

if TYPE_CHECKING:
    from collections.abc import Callable

    from maas_sdk.batch import BatchReport, Progress
    from maas_sdk.batch.job import Mode

__all__ = ["batch", "register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        batch,
        "maas batch digits.maas rows.parquet --out answers --key id",
        "maas batch iris.maas iris.csv --out answers --ignore species --format jsonl",
        "maas batch digits.maas scans/ --out answers --resize --invert",
        "maas batch digits.maas rows.parquet --out answers --key id --resume",
        "maas batch gs://my-bucket/models/digits@stable rows.parquet --out answers --key id",
    )


def batch(
    bundle: BundlePlace,
    file: options.InputFile,
    out: options.AnswersFolder,
    format: options.AnswerFormat = "parquet",
    part_rows: options.PartRows = None,
    resume: options.Resume = False,
    overwrite: options.ReplaceAnswers = False,
    key: options.IdColumn = None,
    columns: options.InputColumns = None,
    ignore: options.IgnoredColumns = None,
    finite: options.FiniteOnly = False,
    resize: options.Resize = False,
    invert: options.InvertImages = False,
    program: options.ProgramToRun = None,
    bucket: options.CompiledRows = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Answer all rows of a file and write the answers beside the rows' IDs.

    Files of answers appear whole: finished ones survive a kill, and --resume continues after them.
    Rows that cannot be answered go to bad-….jsonl, with the reasons.

    Needs maas-sdk[serve,data]. See docs/batch.md.
    """
    with reporting(as_json, debug) as output:
        from maas_sdk.errors import ConfigError
        from maas_sdk.store import find_bundle

        with extra("serve"):
            from maas_sdk.batch import BatchConfig, predict_files

        if resume and overwrite:
            raise ConfigError("--resume keeps the answers that are there, --overwrite does not")
        config = BatchConfig(
            format=format,
            program=program,
            key=key,
            columns=dict(_columns(text) for text in columns or []),
            ignore=tuple(ignore or ()),
            finite=finite,
            resize=resize,
            invert=invert,
            bucket=bucket,
            part_rows=part_rows,
        )
        mode: Mode = "resume" if resume else "overwrite" if overwrite else "new"
        folder = find_bundle(bundle)
        try:
            with _bar(output) as tell:
                report = predict_files(folder, file, out, config, mode=mode, progress=tell)
        except KeyboardInterrupt:
            # Then raised again: ``reporting`` turns it into the exit code that shells expect.
            output.note(f"stopped; what is finished is in {escape(str(out))}: --resume goes on")
            raise
        _show(output, report, out)


def _show(output: Output, report: BatchReport, out: Path) -> None:
    # A resumed run that found everything done took no time.
    rate = report.run_rows / report.run_s if report.run_s else 0.0
    output.show(
        f"{report.answered:,} rows answered"
        + (f", {report.bad:,} not (bad-….jsonl says why)" if report.bad else "")
        + f", {report.parts} {'file' if report.parts == 1 else 'files'} in {escape(str(out))}"
        + (f", {rate:,.0f} rows/s" if rate else "; all was done before")
    )
    output.document(
        {
            "rows": report.rows,
            "answered": report.answered,
            "bad": report.bad,
            "parts": report.parts,
            "run_rows": report.run_rows,
            "run_s": report.run_s,
            "path": str(out),
        }
    )


def _columns(text: str) -> tuple[str, tuple[str, ...]]:
    """Parse ``x=a,b`` to ``x``, (``a``, ``b``)."""
    from maas_sdk.errors import ConfigError

    name, found, columns = text.partition("=")
    if not name or not found or not columns:
        raise ConfigError(f"--columns {text!r}: expected INPUT=COLUMN,… such as x=age,height")
    return name, tuple(columns.split(","))


@contextmanager
def _bar(output: Output) -> Iterator[Callable[[Progress], None]]:
    """Show a progress bar on stderr: rows, rows per second, time left."""
    with output.progress() as bar:
        columns: Any = bar.columns
        # rich's time left is by its own clock; the job's is in the text, with the rows.
        bar.columns = (columns[0], columns[1])
        task = bar.add_task("loading", total=1.0)

        def tell(found: Progress) -> None:
            total = f" of {found.total:,}" if found.total is not None else ""
            left = "" if found.left_s is None else f", {_time(found.left_s)} left"
            bad = f", {found.bad:,} bad" if found.bad else ""
            text = f"{found.rows:,}{total} rows, {found.rows_per_s:,.0f} rows/s{left}{bad}"
            bar.update(task, completed=found.share, description=text)

        yield tell


def _time(seconds: float) -> str:
    """Format a duration as ``1:02:03``, or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
