from __future__ import annotations

import numpy as np
import pytest
from flax import nnx

from maas_sdk.errors import InputError
from maas_sdk.evaluate.predict import predict


@pytest.mark.parametrize("rows", [1, 4, 10])
def test_every_row_is_answered_whatever_the_batch(rows: int) -> None:
    """Fewer rows than a batch, just one, or more with a rest: each row gets its answer."""
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    expected = x @ np.asarray(model.kernel[...]) + np.asarray(model.bias[...])
    np.testing.assert_allclose(predict(model, x, batch_size=4), expected, rtol=1e-5, atol=1e-6)


def test_no_rows_are_refused() -> None:
    """The message says what is missing."""
    with pytest.raises(InputError, match="at least one row"):
        predict(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), np.zeros((0, 3), np.float32))
