from __future__ import annotations

import numpy as np
import pytest

from maas_sdk.errors import InputError
from maas_sdk.training.data import Arrays, Examples, Subset, check_finite


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (np.zeros(3), np.zeros(2, np.int32), r"inputs \[3\], labels \[2\]"),
        (np.zeros(3), np.array(["a", "b", "c"]), r"expected integers of shape \[N\].* <U1\[3\]"),
        (np.zeros(3), np.zeros(3, bool), r"bool\[3\]"),
        (np.zeros(3), np.int32(7), r"int32\[\]"),
        (np.array(["a"]), np.zeros(1, int), r"inputs: expected numbers .* got <U1\[1\]"),
        (np.array([[1], [1, 2]], object), np.zeros(2, int), r"got object\[2\]"),
    ],
)
def test_examples_are_rows_with_labels(
    inputs: np.ndarray, labels: np.ndarray, message: str
) -> None:
    """Inputs and labels that do not belong together are refused at once."""
    with pytest.raises(InputError, match=message):
        Examples(inputs=inputs, labels=np.asarray(labels))


def test_labels_may_be_tokens_targets_and_values() -> None:
    """What is not one class for each row is taken too: [N, T] of tokens, [N, K], floats [N]."""
    for labels in (np.zeros((3, 5), np.int32), np.zeros((3, 2), np.float32), np.zeros(3)):
        assert len(Examples(inputs=np.zeros((3, 5)), labels=labels)) == 3


def test_rows_are_read_in_the_order_asked_for() -> None:
    """Rows may come twice, and are copies: a batch can be changed without changing the data."""
    data = Examples(inputs=np.arange(5.0), labels=np.arange(5))
    batch = data.read(np.array([4, 0, 4]))
    np.testing.assert_array_equal(batch["inputs"], [4, 0, 4])
    batch["inputs"][:] = -1
    np.testing.assert_array_equal(data.inputs, np.arange(5.0))
    assert data[2] == {"inputs": 2.0, "labels": 2}


def test_a_part_has_the_labels_of_its_rows() -> None:
    """For samplings by class; a source without labels as a whole has a part without."""
    data = Examples(inputs=np.arange(5.0), labels=np.arange(5))
    np.testing.assert_array_equal(Subset(data, np.array([4, 1])).labels, [4, 1])
    assert getattr(Subset(Arrays({"inputs": np.zeros(3)}), np.array([1])), "labels", None) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_found_and_named(bad: float) -> None:
    """The message has the row of the data and the place in the row, also far from the start."""
    inputs = np.zeros((300_000, 8), np.float32)
    inputs[271_828, 3] = bad
    data = Examples(inputs=inputs, labels=np.zeros(len(inputs), np.int32))
    with pytest.raises(InputError, match=r"got -?(nan|inf) in row 271828, element \[3\]"):
        check_finite(data)
    check_finite(Subset(data, np.arange(271_828)))


def test_integers_are_always_finite() -> None:
    """Whatever their values; and no rows are no trouble."""
    check_finite(Examples(inputs=np.full((3, 2), 255, np.uint8), labels=np.zeros(3, np.int32)))
    check_finite(Examples(inputs=np.zeros((0, 2)), labels=np.zeros(0, np.int32)))
