from __future__ import annotations

import numpy as np
import pytest

from maas_sdk.training.data import normals, row_keys, uniforms
from maas_sdk.training.data.row_keys import stream


def test_the_hash_is_splitmix64() -> None:
    """The published generator: its first three outputs for the seed 1234567."""
    # https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    found = uniforms(np.array([1234567], np.uint64), 3)[0]
    np.testing.assert_array_equal(found, [(value >> 11) * 2.0**-53 for value in expected])


def test_a_rows_numbers_do_not_depend_on_its_batch() -> None:
    """Alone, among others or in another order, a row has the same key."""
    rows = np.arange(100)
    together = row_keys(rows, seed=3, epoch=2)
    assert together.dtype == np.uint64
    np.testing.assert_array_equal(row_keys(rows[::-1], seed=3, epoch=2), together[::-1])
    np.testing.assert_array_equal(row_keys(rows[42:43], seed=3, epoch=2), together[42:43])


def test_all_that_a_key_is_of_tells() -> None:
    """Another seed, epoch, row, turn or stream has other keys, near ones too, all different."""
    rows = np.arange(1000)
    keys = [
        row_keys(rows, seed=seed, epoch=epoch, turn=turn)
        for seed in (0, 1, 2**70)
        for epoch in (1, 2)
        for turn in (0, 1)
    ]
    keys += [stream(keys[0], number) for number in (0, 1)]
    assert len(np.unique(np.concatenate(keys))) == len(keys) * 1000


def test_uniform_numbers_are_uniform() -> None:
    """Over rows and along a row: mean, variance and each tenth are as expected; none are alike."""
    drawn = uniforms(row_keys(np.arange(2000), seed=0, epoch=1), 50)
    assert drawn.shape == (2000, 50)
    assert 0 <= drawn.min() < drawn.max() < 1
    # 100,000 numbers: the standard error of the mean is 0.0009.
    assert drawn.mean() == pytest.approx(0.5, abs=0.004)
    assert drawn.var() == pytest.approx(1 / 12, abs=0.002)
    tenths = np.bincount((drawn * 10).astype(int).ravel(), minlength=10) / drawn.size
    np.testing.assert_allclose(tenths, 0.1, atol=0.005)
    between = np.corrcoef(drawn.T)
    assert np.abs(between - np.eye(50)).max() < 0.12
    assert len(np.unique(drawn)) == drawn.size


@pytest.mark.parametrize("count", [1, 2, 7])
def test_normal_numbers_are_normal(count: int) -> None:
    """Mean 0, variance 1, no skew, the tails of a normal distribution, for odd counts too."""
    drawn = normals(row_keys(np.arange(40_000), seed=0, epoch=1), count)
    assert drawn.shape == (40_000, count)
    assert np.isfinite(drawn).all()
    assert drawn.mean() == pytest.approx(0, abs=0.02)
    assert drawn.var() == pytest.approx(1, abs=0.03)
    assert (drawn**3).mean() == pytest.approx(0, abs=0.06)
    assert (np.abs(drawn) > 1.959964).mean() == pytest.approx(0.05, abs=0.005)
