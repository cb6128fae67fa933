"""What a batch prediction is asked to do.

The rule it keeps: everything here that changes what is written is part of the job's fingerprint, so
a run is only ever taken up with the options that it was begun with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

from maas_sdk.errors import ConfigError

__all__ = ["FORMATS", "BatchConfig"]

# Kinds of files that answers are written as; also the ending of the files.
FORMATS: Final = ("jsonl", "npz", "parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchConfig:
    """Options of a batch prediction."""

    # One of FORMATS.
    format: str = "parquet"
    # Which of the bundle's programs; None: "predict", or the first one.
    program: str | None = None
    # Column of the input that is written beside the answers; None: the number of the row, from 0.
    key: str | None = None
    # Input of the program → columns that it is made of. An input that is not named takes the column
    # of its name; a program's only input otherwise takes all columns but the key.
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Columns that are left out when an input takes all.
    ignore: tuple[str, ...] = ()
    # Rows with NaN or infinity are not answered.
    finite: bool = False
    # Pictures are scaled to the size that the program takes; False: others are not answered.
    resize: bool = False
    # Pictures: dark is high, as in ink on paper.
    invert: bool = False
    # Compiled batch size that rows are gathered to; None: the one with most rows per second when
    # the bundle was verified.
    bucket: int | None = None
    # Rows of the input that a file of answers covers, rounded up to full buckets; None: what makes
    # files of about 32 MiB.
    part_rows: int | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ConfigError(f"format: expected one of {', '.join(FORMATS)}, got {self.format!r}")
        if self.part_rows is not None and self.part_rows < 1:
            raise ConfigError(f"part_rows: expected 1 or more, got {self.part_rows}")
        for name, columns in self.columns.items():
            if not columns or len(set(columns)) != len(columns):
                raise ConfigError(
                    f"columns: input {name!r}: expected one column or more, each once, got "
                    f"{list(columns)}"
                )

    def document(self) -> dict[str, object]:
        """The options as JSON's values."""
        return {
            **asdict(self),
            "columns": {name: list(found) for name, found in self.columns.items()},
            "ignore": list(self.ignore),
        }
