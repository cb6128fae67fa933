"""File of a report that a command writes: its place is checked first, its text written last."""

from __future__ import annotations

from pathlib import Path

from maas_sdk.errors import ConfigError, StorageError

__all__ = ["check_report_file", "write_report_file"]


def check_report_file(option: str, file: Path | None, *endings: str) -> None:
    """Refuse a place where the report could not be written, before the work that it reports.

    Args:
        option: the option that names the place, for the message.
        file: the place; None: no report is asked for.
        endings: of a report's file, such as ``.html``.

    Raises:
        ConfigError: another ending, or a folder that is not there.
    """
    if file is None:
        return
    if file.suffix.lower() not in endings or not file.resolve().parent.is_dir():
        raise ConfigError(
            f"{option} {file}: expected a path that ends in {' or '.join(endings)}, in a folder "
            "that is there"
        )


def write_report_file(file: Path, text: str) -> None:
    """Write the report. Raises ``StorageError`` where it cannot be written."""
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{file}: cannot be written: {error.strerror or error}") from error
