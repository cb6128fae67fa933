"""Rows of a compiled batch, of a chunk and of a part.

The rule it keeps: sizes follow from the bundle and the options alone, never from the machine, so
that a run that is taken up elsewhere cuts its parts in the same places; and every size is of full
batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from maas_sdk.bundle.manifest import Program
from maas_sdk.errors import ConfigError
from maas_sdk.tensors import TensorSpec

__all__ = ["Sizes", "best_bucket"]

# What is read at a time, and what a part holds of inputs and of answers, at most.
_CHUNK_BYTES: Final = 4 * 2**20
_PART_INPUT_BYTES: Final = 256 * 2**20
_PART_OUTPUT_BYTES: Final = 32 * 2**20
# And of computing: what a chunk's reading is overlapped with, and what a kill may cost.
_CHUNK_S: Final = 0.25
_PART_S: Final = 30.0
# A key beside the answers, as Python holds it.
_KEY_BYTES: Final = 64


def best_bucket(program: Program) -> int:
    """Return the compiled batch size with the most rows per second in verification.

    The largest one, if it was not.

    Raises:
        ConfigError: rows of the program influence one another, so what a row is answered would
            depend on the rows that happen to stand beside it.
    """
    if not program.row_independent:
        raise ConfigError(
            "the rows of this program influence one another: what a row is answered would depend "
            "on its neighbours in the file; batch prediction needs a program whose rows do not"
        )
    run_s = program.verification.run_s if program.verification else {}
    measured = {b: b / run_s[str(b)] for b in program.buckets if run_s.get(str(b), 0) > 0}
    return max(measured, key=lambda b: measured[b]) if measured else program.buckets[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Numbers of rows at a time."""

    # Of a batch that is run.
    bucket: int
    # Read at a time; full batches.
    chunk_rows: int
    # Of a file of answers; full batches.
    part_rows: int

    @classmethod
    def of(
        cls, program: Program, *, part_rows: int | None = None, bucket: int | None = None
    ) -> Self:
        """Return the sizes for a program, as asked for or the best; parts are full batches.

        Raises:
            ConfigError: as ``best_bucket``; the program was not compiled for such batches.
        """
        best = best_bucket(program)
        if bucket is not None and bucket not in program.buckets:
            raise ConfigError(
                f"bucket: the program is compiled for batches of "
                f"{', '.join(map(str, program.buckets))} rows, not {bucket}"
            )
        bucket = best if bucket is None else bucket
        row_in = max(_row_bytes(program.signature.inputs.values()), 1)
        row_out = _row_bytes(program.signature.outputs.values()) + _KEY_BYTES
        chunk_rows = _CHUNK_BYTES // row_in
        most = min(_PART_INPUT_BYTES // row_in, _PART_OUTPUT_BYTES // row_out)
        run_s = program.verification.run_s if program.verification else {}
        if (seconds := run_s.get(str(bucket), 0.0)) > 0:
            chunk_rows = min(chunk_rows, int(_CHUNK_S / seconds) * bucket)
            most = min(most, int(_PART_S / seconds) * bucket)
        return cls(
            bucket=bucket,
            chunk_rows=_full(chunk_rows, bucket),
            part_rows=_full(most if part_rows is None else part_rows, bucket),
        )


def _row_bytes(specs: Iterable[TensorSpec]) -> int:
    return sum(spec.nbytes(1) for spec in specs)


def _full(rows: int, bucket: int) -> int:
    """Round rows up to full batches, one at least."""
    return max(-(-rows // bucket), 1) * bucket
