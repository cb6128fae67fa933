from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.errors import InputError
from maas_sdk.training.diagnose.validation import check_batch, check_labels, describe_batch


@given(st.lists(st.integers(-3, 12), min_size=1, max_size=20), st.integers(1, 10))
def test_labels_pass_exactly_when_each_has_an_output(labels: list[int], classes: int) -> None:
    """0 to K - 1, every row of them; the message names the first row that is not."""
    array = np.asarray(labels)
    wrong = [row for row, label in enumerate(labels) if not 0 <= label < classes]
    if not wrong:
        check_labels(array, classes)
        return
    with pytest.raises(InputError) as caught:
        check_labels(array, classes)
    assert f"row {wrong[0]} has {labels[wrong[0]]} ({len(wrong)} of {len(labels)}" in str(
        caught.value
    )


def test_soft_targets_pass_unless_they_are_no_shares() -> None:
    """float[B, K] of 0 or more that adds up to 1; values to regress on are told of their loss."""
    check_labels(np.array([[0.2, 0.8], [1.0, 0.0], [0.5, 0.5009]]), 2)
    thirds = np.random.default_rng(0).dirichlet(np.ones(10), 1000).astype(np.float16)
    check_labels(thirds, 10)
    check_labels(thirds.reshape(100, 10, 10), 10)
    for wrong in (-0.1, np.nan):
        with pytest.raises(
            InputError, match=r"soft targets are shares of the classes, 0 or more.* loss='mse'"
        ):
            check_labels(np.array([[0.2, 0.8], [wrong, 0.0]]), 2)
    for values in ([[0.2, 0.8], [3.5, 1.25], [0.4, 0.4]], [[[0.5, 0.5]], [[1, 3.75]], [[0, 0]]]):
        with pytest.raises(
            InputError,
            match=r"add up to 1 in each row, but row 1 adds up to 4.75 \(2 of 3 rows do not\); "
            "for values to regress on, choose loss='mse'",
        ):
            check_labels(np.array(values), 2)
    with pytest.raises(InputError, match="expected integers"):
        check_labels(np.array([0.0, 1.0]), 2)


def test_tokens_are_labels_too() -> None:
    """[B, T] is looked at row by row."""
    tokens = np.asarray([[1, 2, 3], [4, 99, 5]])
    check_labels(tokens, 100)
    with pytest.raises(InputError, match=r"expected 0 to 49.* row 1 has 99"):
        check_labels(tokens, 50, where="tokens")


def test_batches_are_told_as_the_device_has_them() -> None:
    """64-bit numbers of the host are 32-bit ones there, and no reason to refuse."""
    host = {"inputs": np.zeros((4, 2)), "labels": np.zeros(4, np.int64)}
    device = {"inputs": jnp.zeros((4, 2)), "labels": jnp.zeros(4, jnp.int32)}
    assert describe_batch(host) == "inputs float32[4, 2], labels int32[4]"
    check_batch("batch 2", device, host)
    with pytest.raises(InputError, match=r"batch 2: expected .*labels int32\[4\], got .*float32"):
        check_batch("batch 2", device, {**host, "labels": np.zeros(4, np.float32)})
