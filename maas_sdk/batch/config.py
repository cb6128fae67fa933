"""Options of a batch prediction.

Every option that changes what is written is part of the job's fingerprint, so a run is only resumed
with the options that it was begun with.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar, Final

from maas_sdk.errors import ConfigError
from maas_sdk.tables.columns import ReadOptions

__all__ = ["FORMATS", "BatchConfig"]

# Kinds of files that answers are written as; also the ending of the files.
FORMATS: Final = ("jsonl", "npz", "parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchConfig(ReadOptions):
    """Options of a batch prediction, besides those of reading its input."""

    # One of FORMATS.
    format: str = "parquet"
    # Which of the bundle's programs; None: "predict", or the first one.
    program: str | None = None
    # Compiled batch size that rows are gathered to; None: the one with most rows per second when
    # the bundle was verified.
    bucket: int | None = None
    # Rows of the input that a file of answers covers, rounded up to full buckets; None: what makes
    # files of about 32 MiB.
    part_rows: int | None = None

    naming: ClassVar[str] = "--columns INPUT=COLUMN,… says which columns an input is made of"
    scaling: ClassVar[str] = "--resize scales images"

    def __post_init__(self) -> None:
        # super() without arguments does not work in a class with slots.
        ReadOptions.__post_init__(self)
        if self.format not in FORMATS:
            raise ConfigError(f"format: expected one of {', '.join(FORMATS)}, got {self.format!r}")
        if self.part_rows is not None and self.part_rows < 1:
            raise ConfigError(f"part_rows: expected 1 or more, got {self.part_rows}")

    def document(self) -> dict[str, object]:
        """Return the options as JSON values."""
        return {
            **asdict(self),
            "columns": {name: list(found) for name, found in self.columns.items()},
            "ignore": list(self.ignore),
        }
