from __future__ import annotations

import numpy as np
import pytest

from maas_sdk.bundle.files.tolerance import Tolerance, compare
from maas_sdk.export.verification.row_independence import row_dependence
from maas_sdk.export.verification.tolerance import rtol_of_dtypes

ROWS = {"x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)}
NOISE = Tolerance(atol=0.0, rtol=5e-5)


def running(fn):
    return lambda inputs: {"y": fn(inputs["x"])}


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: np.tanh(x) @ np.ones((3, 2), np.float32),
        lambda x: np.where(np.isnan(x), 0, x),
        lambda x: np.argmax(x, axis=1),
        lambda x: x > 0,
    ],
)
def test_independent_rows(fn):
    """Functions of each row alone pass, whatever the dtype of what they return."""
    with np.errstate(all="ignore"):
        assert row_dependence(running(fn), ROWS, NOISE) is None


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (lambda x: x - x.mean(axis=0), "with zeros in the other rows"),
        # One scale per tensor, as dynamic int8 quantization has it: zeros do not raise it.
        (lambda x: np.round(x / np.abs(x).max()), "in the other rows"),
        (lambda x: x + 0 * np.where(np.isnan(x).any(), np.nan, 0), "with NaN in the other rows"),
        (lambda x: x * np.arange(len(x))[:, None], "when the rows change places"),
        (lambda x: x / len(x), "alone in its batch"),
    ],
)
def test_dependent_rows(fn, reason):
    """Each kind of influence is found by the experiment made for it, and said."""
    with np.errstate(all="ignore"):
        found = row_dependence(running(fn), ROWS, NOISE)
    assert found is not None
    assert reason in found
    assert "'y' of a row changes by" in found


def test_whole_number_inputs_stay_in_range():
    """Token ids are exchanged among rows, never replaced by numbers that may be no index."""
    table = np.arange(5.0)
    tokens = {"x": np.array([[0, 4], [1, 2], [3, 3]])}
    assert row_dependence(running(lambda x: table[x]), tokens, NOISE) is None
    shifted = running(lambda x: table[np.roll(x, 1, axis=0)])
    assert row_dependence(shifted, tokens, NOISE) is not None


def test_compare_finds_the_place():
    """The largest difference comes with its index."""
    found = compare(np.array([[1.0, 2.0], [3.0, 4.5]]), np.array([[1.0, 2.1], [3.0, 4.0]]))
    assert found.max_abs_error == 0.5
    assert found.where == (1, 1)


def test_nan_and_infinity_equal_themselves_only():
    """NaN where the reference has NaN is right; anywhere else it is infinitely wrong."""
    nan, inf = np.nan, np.inf
    assert compare(np.array([nan, inf]), np.array([nan, inf])).max_abs_error == 0
    for left, right in ((nan, 1.0), (inf, -inf), (1.0, inf)):
        assert compare(np.array([left]), np.array([right])).max_abs_error == inf
    assert compare(np.zeros((0, 3)), np.zeros((0, 3))).max_abs_error == 0


def test_tolerance_is_relative_to_the_outputs_scale():
    """An element near zero may carry the noise of the large ones; whole numbers may not differ."""
    assert Tolerance(atol=1.0, rtol=0.1).allowed(np.array([0.0, -50.0, np.inf])) == 6.0
    assert Tolerance(atol=0.0, rtol=0.1).allowed(np.array([50])) == 0.0


@pytest.mark.parametrize(
    ("dtypes", "rtol"),
    [
        ({"float32"}, 5e-5),
        ({"float32", "bfloat16"}, 2e-2),
        ({"float32", "int8"}, 2e-2),
        ({"float16"}, 5e-3),
        ({"float8_e4m3fn", "float32"}, 1e-1),
        ({"float64"}, 1e-10),
        (set(), 0.0),
    ],
)
def test_default_tolerances(dtypes, rtol):
    """The coarsest arithmetic in a program sets its tolerance."""
    assert rtol_of_dtypes(dtypes) == rtol
