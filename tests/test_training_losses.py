from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from maas_sdk.errors import ConfigError
from maas_sdk.training.losses import cross_entropy

LOSS = cross_entropy()


def test_cross_entropy_against_numpy() -> None:
    """-log softmax at the label, row by row, in float32 even from bfloat16 logits."""
    logits = np.random.default_rng(1).normal(size=(5, 3))
    labels = np.array([0, 1, 2, 0, 1])
    expected = np.log(np.exp(logits).sum(-1)) - logits[np.arange(5), labels]
    np.testing.assert_allclose(LOSS(jnp.asarray(logits), labels), expected, rtol=1e-5)
    assert LOSS(jnp.asarray(logits, jnp.bfloat16), labels).dtype == jnp.float32


def test_label_smoothing_spreads_part_of_the_target() -> None:
    """With α the loss is (1 - α) of the label's own and α of the mean over all classes."""
    logits = jnp.asarray([[2.0, 0.0, -1.0]])
    by_class = np.array([LOSS(logits, jnp.array([k]))[0] for k in range(3)])
    smooth = cross_entropy(label_smoothing=0.3)(logits, jnp.array([1]))
    np.testing.assert_allclose(smooth, [0.7 * by_class[1] + 0.3 * by_class.mean()], rtol=1e-6)
    with pytest.raises(ConfigError, match="label_smoothing: expected 0 ≤ x < 1, got 5"):
        cross_entropy(label_smoothing=5)
