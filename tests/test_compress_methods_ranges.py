from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from maas_sdk.compress.methods.ranges import BINS, METHODS, Histogram, choose, histogram
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array

BATCHES = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 6)),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


def squared_error(x: Array, limit: float, bits: int) -> float:
    """Mean squared error of the symmetric grid that reaches to a limit."""
    top = 2 ** (bits - 1) - 1
    scale = limit / top
    return float(np.square(np.clip(np.rint(x / scale), -top, top) * scale - x).mean())


def same(one: Histogram, two: Histogram) -> bool:
    return np.array_equal(one.counts, two.counts) and (one.low, one.high, one.rows) == (
        two.low,
        two.high,
        two.rows,
    )


@settings(max_examples=200, deadline=None)
@given(batches=st.lists(BATCHES, min_size=1, max_size=4), order=st.randoms())
def test_batches_merge_into_the_histogram_of_all(batches: list[Array], order: Any) -> None:
    """Exactly, in any order, however the range grows, from subnormal numbers to 1e38."""
    every = histogram(np.concatenate([batch.reshape(-1) for batch in batches]))
    parts = [histogram(batch.reshape(-1)) for batch in batches]
    order.shuffle(parts)
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert same(merged, every)
    assert merged.rows == sum(batch.size for batch in batches)


@settings(max_examples=200, deadline=None)
@given(x=BATCHES)
def test_bins_hold_what_they_say(x: Array) -> None:
    """count[j] is of j·d ≤ |x| < (j+1)·d; the least power of two above the limit is the span."""
    found = histogram(x)
    assert found.counts.shape == (BINS,)
    assert found.counts.dtype == np.int64
    assert found.counts.sum() == x.size
    assert (found.low, found.high, found.rows) == (x.min(), x.max(), len(x))
    assert found.limit < found.span
    assert found.limit >= found.span / 2 or found.span == 2.0**-126
    edges = np.arange(BINS + 1) * found.width
    expected = np.histogram(np.abs(x).astype(np.float64), edges)[0]
    np.testing.assert_array_equal(found.counts, expected)


def test_a_histogram_by_hand() -> None:
    """Bins of 3 / 4 rows: span 4 for a limit of 3, so a bin is 1 / 512 wide."""
    found = histogram(np.array([[0.0, -3.0], [1.0, 1 / 1024]], np.float32))
    assert (found.low, found.high, found.rows, found.span) == (-3.0, 1.0, 2, 4.0)
    assert {int(j): int(found.counts[j]) for j in np.flatnonzero(found.counts)} == {
        0: 2,
        512: 1,
        1536: 1,
    }
    wider = found.merge(histogram(np.array([[8.0]], np.float32)))
    assert {int(j): int(wider.counts[j]) for j in np.flatnonzero(wider.counts)} == {
        0: 2,
        128: 1,
        384: 1,
        1024: 1,
    }


def test_a_large_batch_is_counted_in_parts() -> None:
    """All of a million numbers are there."""
    x = np.random.default_rng(0).standard_normal((1000, 1000), np.float32)
    expected = histogram(x[:300]).merge(histogram(x[300:]))
    assert same(histogram(x), expected)


def test_percentiles_by_hand() -> None:
    """Of 1 … 1000 so many percent are at most the limit, to the width of a bin."""
    found = histogram(np.arange(1, 1001, dtype=np.float32)[:, None])
    for percentile in (10, 50, 99, 99.9):
        limit = choose(found, "percentile", percentile=percentile)
        assert limit == pytest.approx(10 * percentile, abs=2 * found.width)
    assert choose(found, "percentile", percentile=100) == 1000
    assert choose(found) == choose(found, "minmax") == 1000


@settings(max_examples=100, deadline=None)
@given(x=BATCHES, method=st.sampled_from(list(METHODS)), bits=st.sampled_from([2, 3, 4, 8]))
def test_a_limit_is_within_what_was_seen(x: Array, method: str, bits: int) -> None:
    """Positive, and at most max|x|, for whatever numbers there are."""
    found = histogram(x)
    if found.limit < 2.0**-126 or (found.low == found.high and method != "minmax"):
        with pytest.raises(InputError):
            choose(found, method, bits=bits)
        return
    assert 0 < choose(found, method, bits=bits) <= np.abs(x).max()


@pytest.mark.parametrize("bits", [4, 8])
def test_heavy_tails_are_clipped(bits: int) -> None:
    """Entropy and mse have less squared error than minmax; mse the least of all."""
    x = np.random.default_rng(0).standard_t(3, (1000, 4000)).astype(np.float32)
    found = histogram(x)
    errors = {m: squared_error(x, choose(found, m, bits=bits), bits) for m in METHODS}
    assert errors["entropy"] < errors["minmax"] / 2
    assert errors["mse"] == min(errors.values())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_least_squares_is_found_on_the_histogram(bits: int) -> None:
    """Within a percent of the least squared error that any limit has on the numbers themselves."""
    x = np.random.default_rng(0).laplace(size=(1000, 50)).astype(np.float32)
    found = histogram(x)
    limits = np.abs(x).max() * np.geomspace(1, 0.02, 400)
    least = min(squared_error(x, limit, bits) for limit in limits)
    assert squared_error(x, choose(found, "mse", bits=bits), bits) <= least * 1.01


def test_even_numbers_keep_their_range() -> None:
    """Uniform activations have no tail: no method clips more than a twentieth."""
    x = np.random.default_rng(0).uniform(-1, 1, (1000, 100)).astype(np.float32)
    for method in METHODS:
        assert choose(histogram(x), method) > 0.95


def test_zeros_do_not_hide_the_rest() -> None:
    """After a relu, half of the numbers are zero; the divergence is that of the others."""
    x = np.random.default_rng(0).standard_t(4, (1000, 100)).astype(np.float32)
    both, positive = histogram(x), histogram(np.maximum(x, 0))
    assert choose(positive, "entropy") == pytest.approx(choose(both, "entropy"), rel=0.3)


def test_an_outlier_far_away() -> None:
    """One number a thousand times as large as the others costs them their range only by minmax."""
    x = np.random.default_rng(0).standard_normal((1000, 100)).astype(np.float32)
    x[0, 0] = 1000
    found = histogram(x)
    assert choose(found, "minmax") == 1000
    assert choose(found, "percentile", percentile=99.9) < 5


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((0, 3)), r"expected a batch of rows, got shape \[0, 3\]; calibrate with at"),
        (np.float32(3), r"expected a batch of rows, got shape \[\]"),
        (np.array([[1, 2], [3, np.nan]]), "expected finite numbers, got nan in row 1; look"),
        (np.array([[1, np.inf], [3, 4]]), "got inf in row 0"),
    ],
)
def test_batches_that_are_refused(x: Any, message: str) -> None:
    """None, and those that are not finite; the row is named."""
    with pytest.raises(InputError, match=message):
        histogram(x)


def test_ranges_that_there_are_not() -> None:
    """No rows, zeros alone, one value alone: the message says what to do."""
    empty = Histogram(counts=np.zeros(BINS, np.int64), low=0.0, high=0.0, rows=0)
    with pytest.raises(InputError, match="holds no numbers; calibrate with at least one row"):
        choose(empty)
    for method in METHODS:
        with pytest.raises(InputError, match=r"all 6 numbers are zero, .* keep its activations"):
            choose(histogram(np.zeros((2, 3), np.float32)), method)
    one = histogram(np.full((2, 3), -2.5, np.float32))
    assert choose(one) == 2.5
    for method in ("percentile", "entropy", "mse"):
        with pytest.raises(InputError, match=r"all 6 numbers are -2.5, .* take 'minmax', or keep"):
            choose(one, method)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "max"}, "method: expected one of minmax, percentile, entropy, mse, got 'max'"),
        ({"bits": 7}, "bits: expected one of 2, 3, 4, 8, got 7"),
        ({"percentile": 0}, "percentile: expected 0 < p ≤ 100, got 0"),
        ({"percentile": 101}, "percentile: expected 0 < p ≤ 100, got 101"),
    ],
)
def test_options_that_there_are_not(options: Any, message: str) -> None:
    """The message says which there are."""
    with pytest.raises(ConfigError, match=message):
        choose(histogram(np.ones((1, 1), np.float32)), **options)
