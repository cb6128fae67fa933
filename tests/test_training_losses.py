from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.training.losses import LOSSES, cross_entropy, loss_by_name

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


def test_soft_targets_are_shares_of_the_classes() -> None:
    """A blend of two classes has the blend of their losses; certain targets are plain labels."""
    logits = jnp.asarray([[2.0, 0.0, -1.0]])
    by_class = [float(LOSS(logits, jnp.array([k]))[0]) for k in range(3)]
    np.testing.assert_allclose(
        LOSS(logits, jnp.asarray([[0.75, 0.0, 0.25]])),
        [0.75 * by_class[0] + 0.25 * by_class[2]],
        rtol=1e-6,
    )
    smooth = cross_entropy(label_smoothing=0.3)
    np.testing.assert_allclose(
        smooth(logits, jnp.eye(3)[1:2]), smooth(logits, jnp.array([1])), rtol=1e-6
    )


def test_losses_by_name_against_numpy() -> None:
    """One value per row, in float32; a column stands for a row of single values."""
    outputs, labels = np.asarray([0.5, -3.0]), np.asarray([1.0, 0.0])
    expected = {
        "mse": (outputs - labels) ** 2,
        "mae": np.abs(outputs - labels),
        "huber": np.asarray([0.125, 2.5]),
        "binary_cross_entropy": np.log1p(np.exp([-0.5, -3.0])),
    }
    assert set(expected) | {"cross_entropy"} == set(LOSSES)
    for name, values in expected.items():
        loss_fn = loss_by_name(name)
        found = loss_fn(jnp.asarray(outputs, jnp.bfloat16), jnp.asarray(labels))
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, values, rtol=1e-5, err_msg=name)
        column = loss_fn(jnp.asarray(outputs)[:, None], jnp.asarray(labels))
        np.testing.assert_allclose(column, values, rtol=1e-5, err_msg=name)
        # What a row has several of is averaged.
        wide = loss_fn(jnp.asarray([outputs]), jnp.asarray([labels]))
        np.testing.assert_allclose(wide, [values.mean()], rtol=1e-5, err_msg=name)


def test_tokens_have_a_loss_each() -> None:
    """Logits [B, T, K] with labels [B, T]."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 5)))
    labels = jnp.asarray([[0, 1, 2], [3, 4, 0]])
    found = LOSS(logits, labels)
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found[1], LOSS(logits[1], labels[1]), rtol=1e-6)


def test_shapes_that_would_only_broadcast_are_refused() -> None:
    """A regression of [B, 2] on [B], logits without labels, labels that are no classes."""
    with pytest.raises(InputError, match=r"squared_error: .* outputs \[4, 2\] and labels \[4\]"):
        loss_by_name("mse")(jnp.zeros((4, 2)), jnp.zeros(4))
    with pytest.raises(InputError, match=r"logits \[4, 2\] with labels \[4, 2\]"):
        LOSS(jnp.zeros((4, 2)), jnp.zeros((4, 2), int))
    with pytest.raises(InputError, match="got float32; for values to regress on"):
        LOSS(jnp.zeros((4, 2)), jnp.zeros(4))
