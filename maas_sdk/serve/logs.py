"""Log lines as Cloud Logging reads them: one JSON object per line on stderr."""

from __future__ import annotations

import json
import sys
import traceback
from typing import Literal

__all__ = ["log"]


def log(
    severity: Literal["DEBUG", "INFO", "WARNING", "ERROR"],
    message: str,
    *,
    error: BaseException | None = None,
    **fields: object,
) -> None:
    """Write one line.

    Args:
        severity: as Cloud Logging names it.
        message: one sentence for people.
        error: its traceback goes into the line, as the field ``traceback``.
        fields: what programs read; what JSON does not know is written as its ``str``.
    """
    line: dict[str, object] = {"severity": severity, "message": message, **fields}
    if error is not None:
        line["traceback"] = "".join(traceback.format_exception(error))
    # One write per line, so that lines of several threads do not mix.
    sys.stderr.write(json.dumps(line, default=str) + "\n")
    sys.stderr.flush()
