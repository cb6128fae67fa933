from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from maas_sdk.bundle.encoding.decode import hash_buckets
from maas_sdk.compress.methods.hashing import hashed
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array

MATRICES = arrays.arrays(np.float32, (6, 5), elements=st.floats(-1000, 1000, width=32))


@settings(max_examples=100, deadline=None)
@given(w=MATRICES, buckets=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_buckets_are_the_least_squares_solution(w: Array, buckets: int, seed: int) -> None:
    """As solving for all of them at once says; an unused bucket is 0."""
    where, sign = hash_buckets(np.arange(30, dtype=np.uint32), buckets, seed)
    design = np.zeros((30, buckets))
    design[np.arange(30), where] = np.where(sign == 0, 1, -1)
    expected = np.linalg.lstsq(design, w.reshape(-1).astype(float), rcond=None)[0]
    found = hashed(w, buckets=buckets, seed=seed)
    np.testing.assert_allclose(found.buckets, expected, atol=1e-3)
    np.testing.assert_allclose(found.decode().reshape(-1), design @ found.buckets, rtol=1e-6)


def test_what_was_hashed_comes_back() -> None:
    """A matrix that is made of buckets is found again, whichever tiles it is read in."""
    random = np.random.default_rng(0)
    w = hashed(random.standard_normal((3, 300_000), np.float32), buckets=1000, seed=7).decode()
    found = hashed(w, buckets=1000, seed=7)
    np.testing.assert_allclose(found.decode(), w, rtol=1e-5)
    flat = hashed(w.reshape(-1, 100), buckets=1000, seed=7)
    np.testing.assert_allclose(flat.buckets, found.buckets, rtol=1e-6)


def test_as_much_is_kept_as_there_are_buckets() -> None:
    """Of independent weights K / N of the energy is left, within a tenth."""
    w = np.random.default_rng(0).standard_normal((500, 500), np.float32)
    for share in (0.02, 0.1):
        kept = (hashed(w, buckets=round(share * w.size)).decode() ** 2.0).sum() / (w**2.0).sum()
        assert kept == pytest.approx(share, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"buckets": 0}, r"buckets: expected 1 to 2\^31 - 1, got 0; a tenth"),
        ({"buckets": 2**31}, "buckets: expected"),
        ({"buckets": 3, "seed": -1}, r"seed: expected 0 to 2\^32 - 1, got -1"),
    ],
)
def test_options_that_there_are_not(options: Any, message: str) -> None:
    """The message says which there are."""
    with pytest.raises(ConfigError, match=message):
        hashed(np.ones((2, 2), np.float32), **options)


def test_weights_that_are_refused() -> None:
    """Those that are not finite, and more than 32 bits can count."""
    with pytest.raises(InputError, match="got inf at output 0, input 1"):
        hashed(np.array([[1, np.inf]], np.float32), buckets=2)
    huge = np.broadcast_to(np.float32(1), (2**16, 2**16))
    with pytest.raises(InputError, match="4294967296 weights have more; split"):
        hashed(huge, buckets=2)
