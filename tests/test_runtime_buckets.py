from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.errors import InputError
from maas_sdk.runtime.buckets import pad_rows, plan

LADDERS = st.sets(st.integers(1, 40), min_size=1, max_size=6).map(sorted)


@given(rows=st.integers(0, 500), buckets=LADDERS)
def test_runs_cover_the_rows_once_and_in_order(rows, buckets):
    """No row is left out or answered twice, and every run fits its bucket."""
    runs = plan(rows, buckets, row_independent=True)
    covered = [row for start, stop, _ in runs for row in range(start, stop)]
    assert covered == list(range(rows))
    for start, stop, bucket in runs:
        assert bucket in buckets
        assert 0 < stop - start <= bucket


@given(rows=st.integers(1, 500), buckets=LADDERS)
def test_only_the_last_run_is_padded_and_as_little_as_can_be(rows, buckets):
    """All but the last run fill the largest bucket; the last takes the smallest that holds it."""
    *full, (start, stop, bucket) = plan(rows, buckets, row_independent=True)
    assert all((b, end - begin) == (buckets[-1], buckets[-1]) for begin, end, b in full)
    assert not [b for b in buckets if stop - start <= b < bucket]


@given(rows=st.integers(0, 50), buckets=LADDERS)
def test_dependent_rows_are_answered_for_exact_sizes_only(rows, buckets):
    """A batch of another size is refused with the sizes that are there."""
    if rows in buckets:
        assert plan(rows, buckets, row_independent=False) == [(0, rows, rows)]
        return
    sizes = ", ".join(map(str, buckets))
    with pytest.raises(InputError, match=f"answers batches of exactly {sizes} rows, not {rows}: "):
        plan(rows, buckets, row_independent=False)


def test_padding_is_zeros_below():
    """The rows come first, untouched; a full bucket is handed through without a copy."""
    x = np.arange(6, dtype=np.int16).reshape(3, 2)
    assert pad_rows(x, 3) is x
    padded = pad_rows(x[::-1], 5)
    assert padded.dtype == x.dtype
    np.testing.assert_array_equal(padded, [[4, 5], [2, 3], [0, 1], [0, 0], [0, 0]])
