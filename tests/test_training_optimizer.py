from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from maas_sdk.errors import ConfigError
from maas_sdk.training.optimizer import OptimizerConfig, make_optimizer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate: expected more than 0"),
        ({"warmup_fraction": 1.0}, "warmup_fraction: expected 0 ≤ x < 1"),
        ({"weight_decay": -1.0}, "weight_decay: expected 0 or more"),
        ({"clip_norm": 0.0}, "clip_norm: expected more than 0 or None"),
    ],
)
def test_optimizer_options_are_checked(options: dict[str, float], message: str) -> None:
    """Each option says what it may be."""
    with pytest.raises(ConfigError, match=message):
        OptimizerConfig(**options)


@pytest.mark.parametrize("options", [{}, {"warmup_fraction": 0.0, "clip_norm": None}])
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_every_length_of_run_has_an_optimizer(steps: int, options: dict[str, float]) -> None:
    """Short runs, without warm-up or clipping too, give finite updates."""
    optimizer = make_optimizer(OptimizerConfig(**options), steps=steps)
    params = jnp.ones(3)
    state = optimizer.init(params)
    for _ in range(min(steps, 7)):
        updates, state = optimizer.update(jnp.full(3, 100.0), state, params)
        assert np.all(np.isfinite(updates))


def test_the_learning_rate_rises_and_falls() -> None:
    """With clipping and decay off, AdamW's step is the schedule: zero, the peak, then less."""
    config = OptimizerConfig(learning_rate=0.5, warmup_fraction=0.5, weight_decay=0, clip_norm=None)
    optimizer = make_optimizer(config, steps=4)
    params = jnp.zeros(1)
    state = optimizer.init(params)
    sizes = []
    for _ in range(5):
        updates, state = optimizer.update(jnp.ones(1), state, params)
        sizes.append(-float(updates[0]))
    np.testing.assert_allclose(sizes, [0, 0.25, 0.5, 0.25, 0], atol=1e-5)
