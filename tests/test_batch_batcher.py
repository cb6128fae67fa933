"""Chunks and batches: every row in one place, full batches, whatever the cuts."""

from __future__ import annotations

from collections.abc import Set

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.batch.batcher import Batcher, cut
from maas_sdk.tables.chunk import Chunk, chunk_of


def chunk(first: int, rows: int, flawed: Set[int] = frozenset()) -> Chunk:
    """Rows whose input is their number, and whose key is the number as text."""
    numbers = np.arange(first, first + rows)
    return chunk_of(
        first,
        rows,
        {"x": numbers.astype(np.float64)[:, None]},
        np.array([str(n) for n in numbers], object),
        dict.fromkeys(flawed, "bad"),
        share=0.5,
    )


def test_flawed_rows_leave_the_inputs():
    """A good row keeps number, key and values; a flawed one becomes number, key and reason."""
    found = chunk(10, 4, {1, 3})
    assert found.numbers.tolist() == [10, 12]
    assert found.keys is not None
    assert found.keys.tolist() == ["10", "12"]
    assert found.inputs["x"].tolist() == [[10.0], [12.0]]
    assert found.bad == ((11, "11", "bad"), (13, "13", "bad"))
    assert found.stop == 14


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    part_rows=st.integers(1, 12),
    bucket=st.integers(1, 7),
    data=st.data(),
)
def test_every_row_comes_once_in_full_batches(sizes, part_rows, bucket, data):
    """Whatever the chunks, parts, batches and flaws: rows come in order, once, b at a time."""
    total = sum(sizes)
    flawed = data.draw(st.sets(st.integers(0, total - 1)))
    finished = data.draw(st.sets(st.integers(0, total // part_rows)))
    first, chunks = 0, []
    for size in sizes:
        here = {row - first for row in flawed if first <= row < first + size}
        chunks.append(chunk(first, size, here))
        first += size
    pieces = list(cut(chunks, part_rows, finished))
    assert all(p.first // part_rows == (p.stop - 1) // part_rows for p in pieces)
    batcher, batches = Batcher(bucket), []
    for piece in pieces:
        assert [str(number) for number in piece.numbers] == list(piece.keys)
        batches += batcher.add(piece.inputs, len(piece.numbers))
    assert all(len(batch["x"]) == bucket for batch in batches)
    batches += batcher.rest()
    left = [row for row in range(total) if row // part_rows not in finished]
    assert [int(x) for batch in batches for [x] in batch["x"]] == [
        row for row in left if row not in flawed
    ]
    assert [bad.row for piece in pieces for bad in piece.bad] == [
        row for row in left if row in flawed
    ]


def test_a_batch_from_the_middle_is_no_copy():
    """Rows that fill batches by themselves are handed on where they lie."""
    rows = np.zeros((8, 2))
    [one, other] = Batcher(4).add({"x": rows}, 8)
    assert np.shares_memory(one["x"], rows)
    assert np.shares_memory(other["x"], rows)
