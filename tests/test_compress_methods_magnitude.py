from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from maas_sdk.compress.methods.magnitude import magnitude_mask
from maas_sdk.errors import ConfigError
from maas_sdk.tensors import Array


@settings(max_examples=200, deadline=None)
@given(
    w=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.integers(1, 9)),
        elements=st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.0]), st.floats(width=32)).filter(
            np.isfinite
        ),
    ),
    sparsity=st.floats(0, 1, exclude_max=True),
)
def test_exactly_the_smallest_go(w: Array, sparsity: float) -> None:
    """As a stable sort of all magnitudes says, ties in the order of the matrix."""
    expected = np.ones(w.size, bool)
    expected[np.argsort(np.abs(w).reshape(-1), kind="stable")[: round(sparsity * w.size)]] = False
    np.testing.assert_array_equal(magnitude_mask(w, sparsity), expected.reshape(w.shape))


def test_ties_go_on_in_the_next_tile() -> None:
    """Of a million equal weights the first half goes."""
    mask = magnitude_mask(np.full((1000, 1000), -2, np.float32), 0.5)
    assert not mask[:500].any()
    assert mask[500:].all()


def test_without_a_share_zeros_go() -> None:
    """Both zeros, and nothing else."""
    w = np.array([[0.0, -0.0, 1e-45, -3]], np.float32)
    assert magnitude_mask(w).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_a_share_that_is_none(sparsity: float) -> None:
    """The message says what a share is."""
    with pytest.raises(ConfigError, match="sparsity: expected a share of zeros 0 ≤ x < 1"):
        magnitude_mask(np.ones((1, 1), np.float32), sparsity)
