"""Values of files bent to inputs: what is kept, what is a flaw, and what is said of it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maas_sdk.errors import InputError
from maas_sdk.tables.columns import Field
from maas_sdk.tables.values import fit, fit_each
from maas_sdk.tensors import TensorSpec


def taking(dtype: str, *shape: int) -> Field:
    return Field("x", TensorSpec(dtype=dtype, shape=(None, *shape)))


PAIR = taking("float32", 2)
ONE = taking("float32")

# dtype of the input, values of three rows, the rows that are flawed, a piece of the reason.
CASES = [
    ("float32", np.array([1, 2, 3]), [], ""),
    ("float32", np.array([True, False, True]), [], ""),
    ("float16", np.array([1.0, 1e6, math.nan]), [1, 2], "a finite float16, found 1000000.0"),
    ("bfloat16", np.array([1.0, math.inf, 3.0]), [1], "a finite bfloat16, found inf"),
    ("int8", np.array([127, 128, -129]), [1, 2], "int8, -128 to 127, found 128"),
    ("uint8", np.array([0, -1, 255]), [1], "uint8, 0 to 255, found -1"),
    ("uint64", np.array([0, -1, 5]), [1], "uint64, 0 to 18446744073709551615, found -1"),
    ("int64", np.array([0, 2**64 - 1, 5], np.uint64), [1], "found 18446744073709551615"),
    ("int4", np.array([7, 8, -8]), [1], "int4, -8 to 7, found 8"),
    ("int32", np.array([1.0, 1.5, math.nan]), [1, 2], "an integer, int32, found 1.5"),
    ("int64", np.array([1.0, 2.0**63, -(2.0**63)]), [1], "an integer, int64"),
    ("bool", np.array([0, 2, 1]), [1], "0 or 1, found 2"),
    ("complex64", np.array([1, 2j, math.nan]), [2], "a finite complex64"),
]


@pytest.mark.parametrize(("dtype", "values", "flawed", "reason"), CASES)
def test_what_is_kept_and_what_is_a_flaw(dtype, values, flawed, reason):
    """Good rows keep their value in the input's dtype; of others it is said what stands there."""
    flaws: dict[int, str] = {}
    found = fit(taking(dtype), values, flaws, finite=True)
    assert sorted(flaws) == flawed
    assert found.dtype.name == dtype
    for place in set(range(3)) - set(flawed):
        assert found[place] == values[place]
    if flawed:
        assert reason in flaws[flawed[0]], flaws


def test_nan_is_a_value_unless_asked():
    """Without ``finite`` the model sees what the file has."""
    flaws: dict[int, str] = {}
    found = fit(ONE, np.array([1.0, math.nan]), flaws, finite=False)
    assert flaws == {}
    assert math.isnan(found[1])


def test_a_finite_row_beside_a_sum_that_overflows_is_no_flaw():
    """The short look that comes first never decides: the sum is infinite, no value is."""
    flaws: dict[int, str] = {}
    fit(ONE, np.full(4, 3e38, np.float32), flaws, finite=True)
    assert flaws == {}


def test_flat_rows_take_the_shape():
    """Rows of F numbers in one line are the input's shape; another F is the file's fault."""
    item = taking("float32", 2, 3)
    found = fit(item, np.arange(12).reshape(2, 6), {}, finite=False)
    assert found.shape == (2, 2, 3)
    with pytest.raises(InputError, match=r"float32\[B, 2, 3\], 6 numbers in a row, found int64"):
        fit(item, np.zeros((2, 5), np.int64), {}, finite=False)
    with pytest.raises(InputError, match=r"expected float32\[B, 2, 3\], found <U1"):
        fit(item, np.array(["a"]), {}, finite=False)


def test_each_row_by_itself():
    """A row that is wrong is told from its neighbours, with the culprit inside it."""
    flaws = {0: "before"}
    rows = [None, [1, 2], [1, "a"], [1, [2]], None, [1], "12", [1, None], {"a": 1}, [3, 4.5]]
    found = fit_each(PAIR, rows, flaws, finite=False)
    assert found[[1, 9]].tolist() == [[1, 2], [3, 4.5]]
    assert flaws == {
        0: "before",
        2: "input 'x': expected float32[2], found 'a'",
        3: "input 'x': expected float32[2], found a list of 1",
        4: "input 'x': expected float32[2], found null",
        5: "input 'x': expected float32[2], found shape [1]",
        6: "input 'x': expected float32[2], found '12'",
        7: "input 'x': expected float32[2], found null",
        8: "input 'x': expected float32[2], found an object",
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)


@given(rows=st.lists(JSON, max_size=6), dtype=st.sampled_from(["float32", "int8", "bool"]))
def test_any_json_is_a_value_or_a_flaw(rows, dtype):
    """Nothing that JSON can say raises, and rows without a flaw are the numbers that came."""
    rows = json.loads(json.dumps(rows))
    flaws: dict[int, str] = {}
    found = fit_each(taking(dtype, 2), rows, flaws, finite=True)
    assert found.shape == (len(rows), 2)
    for place, row in enumerate(rows):
        if place not in flaws:
            assert np.asarray(row).astype(found.dtype).reshape(2).tolist() == found[place].tolist()
