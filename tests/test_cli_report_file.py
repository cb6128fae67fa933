"""The file of a command's report: refused before the work, and told when the disk refuses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from maas_sdk.cli.report_file import check_report_file, write_report_file
from maas_sdk.errors import ConfigError, StorageError


def test_a_place_that_could_not_be_written_is_refused(tmp_path: Path) -> None:
    """Another ending, or no such folder; the option and the endings are named."""
    check_report_file("--out", None, ".html")
    check_report_file("--out", tmp_path / "a.HTML", ".html")
    words = "--report .*: expected a path that ends in .html or .json, in a folder that is there"
    for file in (tmp_path / "a.pdf", tmp_path / "none" / "a.html"):
        with pytest.raises(ConfigError, match=words):
            check_report_file("--report", file, ".html", ".json")


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    """The machine's fault, with its reason."""
    write_report_file(tmp_path / "a.html", "é")
    assert (tmp_path / "a.html").read_bytes() == "é".encode()
    with pytest.raises(StorageError, match=r"cannot be written: Is a directory"):
        write_report_file(tmp_path, "")
