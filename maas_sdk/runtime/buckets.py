"""Bucketing: a batch of any size on fixed batch sizes, padded up or split above the largest.

B is the number of rows that came, b a compiled batch size (a bucket).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maas_sdk.errors import InputError
from maas_sdk.tensors import Array

__all__ = ["pad_rows", "plan"]


def plan(rows: int, buckets: Sequence[int], *, row_independent: bool) -> list[tuple[int, int, int]]:
    """Return runs that answer ``rows`` rows, as (start, stop, bucket) in order.

    As many of the largest bucket as fill up, then the smallest that holds the rest; its padding is
    ``bucket - (stop - start)`` rows. No rows need no run.

    Args:
        rows: B ≥ 0.
        buckets: ascending.
        row_independent: False: only a batch of exactly a bucket's size can be answered.

    Raises:
        InputError: rows influence one another and no bucket is of this size.
    """
    if not row_independent:
        if rows not in buckets:
            raise InputError(
                f"the rows of this model influence one another, so it answers batches of exactly "
                f"{', '.join(map(str, buckets))} rows, not {rows}: send one of these sizes, or "
                "export it with the sizes you need",
                rows=rows,
                buckets=list(buckets),
            )
        return [(0, rows, rows)]
    runs: list[tuple[int, int, int]] = []
    largest = buckets[-1]
    start = 0
    while rows - start >= largest:
        runs.append((start, start + largest, largest))
        start += largest
    if start < rows:
        bucket = next(size for size in buckets if size >= rows - start)
        runs.append((start, rows, bucket))
    return runs


def pad_rows(array: Array, bucket: int) -> Array:
    """Pad [B, …] → [bucket, …] with zeros; the array itself if B is the bucket."""
    rows = array.shape[0]
    if rows == bucket:
        return array
    padded = np.zeros((bucket, *array.shape[1:]), array.dtype)
    padded[:rows] = array
    return padded
