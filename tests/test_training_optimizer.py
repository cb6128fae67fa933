from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from flax import nnx
from sklearn.datasets import load_wine

from maas_sdk.errors import ConfigError
from maas_sdk.training.optimizer import (
    DECAY_MASKS,
    OPTIMIZERS,
    OptimizerConfig,
    decay_mask,
    depends_on_steps,
    learning_rate_schedule,
    make_optimizer,
    skipped_steps,
    update_ema,
)
from maas_sdk.training.schedules import SCHEDULES

# What leaves gradients and the learning rate as they are.
PLAIN = {"schedule": "constant", "clip_norm": None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "adamm"}, "optimizer: unknown name 'adamm'; known are sgd, momentum, nesterov"),
        ({"schedule": "sine"}, "schedule: unknown name 'sine'; known are constant, linear"),
        ({"learning_rate": 0.0}, "learning_rate: expected more than 0"),
        ({"warmup_fraction": 1.0}, "warmup_fraction: expected 0 ≤ x < 1"),
        ({"weight_decay": -1.0}, "weight_decay: expected 0 or more"),
        ({"decay_mask": "biases"}, "decay_mask: unknown name 'biases'; known are matrices, "),
        ({"clip_norm": 0.0}, "clip_norm: expected more than 0 or None"),
        ({"clip_value": -1.0}, "clip_value: expected more than 0 or None"),
        ({"clip_adaptive": 0.0}, "clip_adaptive: expected more than 0 or None"),
        ({"accumulate_steps": 0}, "accumulate_steps: expected 1 or more, got 0"),
        ({"skip_nonfinite": -1}, "skip_nonfinite: expected 0 or more, got -1"),
        ({"ema_decay": 1.0}, "ema_decay: expected 0 < x < 1 or None, got 1.0"),
        ({"options": {"b3": 1}}, "optimizer 'adamw': unknown option 'b3'; known are b1, b2, eps"),
        ({"name": "muon", "options": {"learning_rate": 1}}, "unknown option 'learning_rate'"),
    ],
)
def test_optimizer_options_are_checked(options: dict[str, Any], message: str) -> None:
    """Each option says what it may be."""
    with pytest.raises(ConfigError, match=message):
        OptimizerConfig(**options)


@pytest.mark.parametrize("options", [{}, {"warmup_fraction": 0.0, "clip_norm": None}])
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_every_length_of_run_has_an_optimizer(steps: int, options: dict[str, Any]) -> None:
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
    schedule = learning_rate_schedule(config, steps=4)
    np.testing.assert_allclose([schedule(n) for n in range(5)], [0, 0.25, 0.5, 0.25, 0], atol=1e-6)


class Network(nnx.Module):
    """Names of every kind that a mask looks for."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(5, 4, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(4, 4, rngs=rngs)])
        self.post_norm = nnx.LayerNorm(4, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 4, rngs=rngs)
        self.gain = nnx.Param(jnp.ones(4))


PARAMS = nnx.state(Network(nnx.Rngs(0)), nnx.Param)

# One of what is decayed and one of what is not, for what is compiled many times.
FEW = {"dense": {"kernel": jnp.asarray([[1.0, -2.0, 0.5]]), "bias": jnp.asarray([0.1, 0.2, -0.3])}}


def two_steps(optimizer: optax.GradientTransformation, start: Any = FEW) -> list[np.ndarray]:
    """The weights after two steps along the same gradients."""

    @jax.jit
    def run(params: Any) -> Any:
        state = optimizer.init(params)
        for _ in range(2):
            updates, state = optimizer.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        return params

    gradients = jax.tree.map(
        lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), start
    )
    return [np.asarray(leaf) for leaf in jax.tree.leaves(run(start))]


MASK = decay_mask("matrices")
# By hand: a learning rate of 0.01, a decay of 0.1 that is the learning rate's times the weight.
DECAY = optax.add_decayed_weights(-0.01 * 0.1, MASK)
BY_HAND = {
    "sgd": optax.chain(optax.sgd(0.01), DECAY),
    "momentum": optax.chain(optax.sgd(0.01, 0.9), DECAY),
    "nesterov": optax.chain(optax.sgd(0.01, 0.9, nesterov=True), DECAY),
    "adam": optax.adamw(0.01, weight_decay=0.1, mask=MASK),
    "adamw": optax.adamw(0.01, weight_decay=0.1, mask=MASK),
    "adagrad": optax.chain(optax.adagrad(0.01), DECAY),
    "adadelta": optax.chain(optax.adadelta(0.01), DECAY),
    "rmsprop": optax.chain(optax.rmsprop(0.01), DECAY),
    "lion": optax.lion(0.01, weight_decay=0.1, mask=MASK),
    "lamb": optax.lamb(0.01, weight_decay=0.1, mask=MASK),
    "adafactor": optax.chain(optax.adafactor(0.01), DECAY),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_two_steps_are_optax_s(name: str) -> None:
    """Each name is the optax composition that it says, with decoupled decay behind the mask."""
    config = OptimizerConfig(name=name, learning_rate=0.01, weight_decay=0.1, **PLAIN)
    found = two_steps(make_optimizer(config, steps=2))
    for ours, theirs in zip(found, two_steps(BY_HAND[name]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_muon_takes_matrices_and_adam_the_rest() -> None:
    """Of all leaves two-dimensional ones alone, and of these no embedding and no bias of heads."""
    config = OptimizerConfig(name="muon", learning_rate=0.01, weight_decay=0.1, **PLAIN)
    found = two_steps(make_optimizer(config, steps=2), PARAMS)
    muon = two_steps(optax.contrib.muon(0.01, weight_decay=0.1), PARAMS)
    # Muon has Nesterov's momentum for Adam too.
    adam = two_steps(optax.adamw(0.01, nesterov=True, weight_decay=0.0), PARAMS)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(PARAMS)]
    by_muon = []
    for path, ours, with_muon, with_adam in zip(paths, found, muon, adam, strict=True):
        if np.allclose(ours, with_muon, rtol=1e-5) and not np.allclose(ours, with_adam, rtol=1e-5):
            by_muon.append(path)
        else:
            np.testing.assert_allclose(ours, with_adam, rtol=1e-5, atol=1e-7, err_msg=path)
    assert len(by_muon) == 1
    assert "blocks" in by_muon[0]
    assert "kernel" in by_muon[0]


def test_adamw_against_numpy() -> None:
    """Two steps by the paper's formula, Loshchilov and Hutter 2019, algorithm 2."""
    w, g = np.array([[1.0, -2.0]]), np.array([[0.5, 0.1]])
    m, v = np.zeros_like(w), np.zeros_like(w)
    params, optimizer = (
        {"kernel": jnp.asarray(w)},
        make_optimizer(
            OptimizerConfig(learning_rate=0.1, weight_decay=0.5, options={"b2": 0.95}, **PLAIN),
            steps=2,
        ),
    )
    state = optimizer.init(params)
    for t in (1, 2):
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        direction = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
        w = w - 0.1 * (direction + 0.5 * w)
        updates, state = optimizer.update({"kernel": jnp.asarray(g)}, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["kernel"], w, rtol=1e-5)


# Learning rates that are usual for each, times what this small problem takes.
RATES = {
    "sgd": 0.3,
    "momentum": 0.1,
    "nesterov": 0.1,
    "adagrad": 0.3,
    "adadelta": 1.0,
    "rmsprop": 0.01,
    "lion": 0.01,
    "lamb": 0.03,
    "adafactor": 0.1,
    "muon": 0.03,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_learns_wine(name: str) -> None:
    """60 steps of a small network on all 178 wines, through every wrapper, leave a low loss."""
    rows, labels = load_wine(return_X_y=True)
    x = jnp.asarray((rows - rows.mean(0)) / rows.std(0), jnp.float32)
    model = nnx.Sequential(
        nnx.Linear(13, 16, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(16, 3, rngs=nnx.Rngs(1))
    )
    config = OptimizerConfig(
        name=name, learning_rate=RATES.get(name, 0.03), accumulate_steps=1, skip_nonfinite=2
    )
    graphdef, params = nnx.split(model)
    optimizer = make_optimizer(config, steps=60)

    def loss(params: Any) -> jax.Array:
        logits = nnx.merge(graphdef, params)(x)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def run(params: Any) -> tuple[Any, jax.Array]:
        def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
            params, state = carry
            value, gradients = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), value

        carry, values = jax.lax.scan(step, (params, optimizer.init(params)), length=60)
        return carry, values

    (_, state), values = run(params)
    assert float(values[0]) > 1.0
    # Adadelta's first steps are as short as its epsilon.
    assert float(values[-1]) < (0.7 if name == "adadelta" else 0.1), float(values[-1])
    assert int(skipped_steps(state)) == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"clip_value": 2.0}, [2.0, -2.0, 1.0, 0.0]),
        ({"clip_norm": 5.0}, np.array([4.0, -12.0, 1.0, 0.0]) * 5 / np.sqrt(161.0)),
        # Value first, then norm.
        ({"clip_value": 2.0, "clip_norm": 1.5}, [1.0, -1.0, 0.5, 0.0]),
        # A vector is one unit: the weights' norm is 2, so 0.1 · 2 of the gradient's is left.
        ({"clip_adaptive": 0.1}, np.array([4.0, -12.0, 1.0, 0.0]) * 0.2 / np.sqrt(161.0)),
    ],
)
def test_clipping_against_numpy(options: dict[str, float], expected: Any) -> None:
    """What plain gradient descent with a rate of 1 takes away is the clipped gradient."""
    config = OptimizerConfig(name="sgd", learning_rate=1.0, **{**PLAIN, **options})
    optimizer = make_optimizer(config, steps=1)
    weights = jnp.ones(4)
    updates, _ = optimizer.update(
        jnp.asarray([4.0, -12.0, 1.0, 0.0]), optimizer.init(weights), weights
    )
    np.testing.assert_allclose(-np.asarray(updates), expected, rtol=1e-5, atol=1e-6)


def test_accumulated_steps_are_one_update() -> None:
    """Three gradients, averaged in float32, do what their mean does; until then nothing moves.

    The schedule counts updates, not steps.
    """
    config = OptimizerConfig(name="sgd", learning_rate=1.0, schedule="linear", accumulate_steps=3)
    optimizer = make_optimizer(config, steps=6)
    weights = jnp.zeros(2, jnp.float32)
    state = optimizer.init(weights)
    assert state.acc_grads.dtype == jnp.float32
    moved = []
    for size in (0.1, 0.2, 0.6, 0.3, 0.3, 0.3):
        updates, state = optimizer.update(jnp.full(2, size), state, weights)
        moved.append(-float(updates[0]))
    np.testing.assert_allclose(moved, [0, 0, 0.3, 0, 0, 0.5 * 0.3], atol=1e-6)


def test_what_is_not_finite_is_skipped_and_counted() -> None:
    """Neither weights nor moments nor an average under way move; the third in a row is applied."""
    config = OptimizerConfig(
        name="momentum", learning_rate=1.0, accumulate_steps=2, skip_nonfinite=2, **PLAIN
    )
    optimizer = make_optimizer(config, steps=10)
    weights = jnp.zeros(1)
    state = optimizer.init(weights)
    assert int(skipped_steps(state)) == 0
    update = jax.jit(optimizer.update)
    seen = []
    for value in (1.0, jnp.nan, 3.0, jnp.inf, jnp.nan):
        updates, state = update(jnp.full(1, value), state, weights)
        seen.append(float(updates[0]))
    assert seen == [0, 0, -2, 0, 0]
    assert int(jax.jit(skipped_steps)(state)) == 3
    for _ in range(2):
        updates, state = update(jnp.full(1, jnp.nan), state, weights)
    assert not np.isfinite(updates[0])
    assert int(skipped_steps(state)) == 5
    plain = make_optimizer(OptimizerConfig(), steps=10).init(weights)
    assert int(skipped_steps(plain)) == 0


def decayed(mask: Any) -> list[str]:
    return [
        "/".join(str(part.key) for part in path if hasattr(part, "key"))
        for path, leaf in jax.tree_util.tree_leaves_with_path(mask)
        if leaf
    ]


def test_weights_that_are_decayed() -> None:
    """Kernels are; biases, of attention [heads, width] too, norms and vectors are not."""
    kernels = [f"attention/{name}/kernel" for name in ("key", "out", "query", "value")]
    kernels.append("blocks/0/kernel")
    assert decayed(decay_mask("matrices_no_embeddings")(PARAMS)) == kernels
    assert decayed(decay_mask("matrices")(PARAMS)) == [*kernels, "embed/embedding"]
    assert len(decayed(decay_mask("all")(PARAMS))) == len(jax.tree.leaves(PARAMS))
    assert set(DECAY_MASKS) == {"matrices", "matrices_no_embeddings", "all"}
    # Of scanned blocks every leaf has one dimension more.
    stacked = {"blocks": {"norm": {"scale": jnp.ones((2, 4))}, "up": {"bias": jnp.ones((2, 4))}}}
    assert decayed(decay_mask("matrices")(stacked)) == []


def test_a_mask_of_ones_own() -> None:
    """A function from weights to bools decides; gradients of zero leave the decay alone visible."""
    config = OptimizerConfig(
        name="adam",
        learning_rate=0.1,
        weight_decay=0.5,
        decay_mask=lambda params: {name: name == "b" for name in params},
        **PLAIN,
    )
    params = {"a": jnp.ones(1), "b": jnp.ones(1)}
    optimizer = make_optimizer(config, steps=1)
    zeros = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_allclose([updates["a"][0], updates["b"][0]], [0, -0.05], atol=1e-7)


def test_decay_where_nothing_is_said() -> None:
    """adamw, lion, lamb and muon bring theirs, the others none."""
    weights = {"kernel": jnp.ones((2, 2))}
    zeros = jax.tree.map(jnp.zeros_like, weights)
    for name in OPTIMIZERS:
        optimizer = make_optimizer(OptimizerConfig(name=name, learning_rate=1.0, **PLAIN), steps=1)
        step = jax.jit(lambda w, o=optimizer: o.update(zeros, o.init(w), w)[0])
        moves = float(jnp.abs(step(weights)["kernel"]).max())
        assert (moves > 0) == (name in ("adamw", "lion", "lamb", "muon")), name


def test_a_schedule_of_ones_own() -> None:
    """A function of the updates made so far is taken as it is."""
    config = OptimizerConfig(name="sgd", schedule=lambda count: 0.5**count, clip_norm=None)
    optimizer = make_optimizer(config, steps=3)
    state, sizes = optimizer.init(jnp.zeros(1)), []
    for _ in range(3):
        updates, state = optimizer.update(jnp.ones(1), state, jnp.zeros(1))
        sizes.append(-float(updates[0]))
    assert sizes == [1, 0.5, 0.25]


def test_rates_that_go_by_the_length_of_the_run_are_known() -> None:
    """Exactly those whose rate after some updates is another one in a run ten times as long."""
    configs = [OptimizerConfig(schedule=name) for name in SCHEDULES]
    configs += [
        OptimizerConfig(schedule="constant", warmup_fraction=0.1),
        OptimizerConfig(schedule="constant", warmup_fraction=0.0),
        OptimizerConfig(schedule=lambda count: 0.1 / (1 + count)),
    ]
    for config in configs:
        short, long = (learning_rate_schedule(config, steps=steps) for steps in (100, 1000))
        other = any(float(short(count)) != float(long(count)) for count in (5, 60, 90))
        assert depends_on_steps(config) == other, config


def test_the_average_of_weights() -> None:
    """Against the formula; the first weights, which are random, soon count for little."""
    weights = [np.full(2, value, np.float32) for value in (1.0, 5.0, 3.0, 4.0)]
    ema, expected = {"w": jnp.asarray(weights[0])}, weights[0]
    for n, w in enumerate(weights[1:]):
        d = min(0.9, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * w
        ema = update_ema(ema, {"w": jnp.asarray(w)}, decay=0.9, updates=n)
        np.testing.assert_allclose(ema["w"], expected, rtol=1e-6)
    late = update_ema({"w": jnp.zeros(1)}, {"w": jnp.ones(1)}, decay=0.9, updates=10_000)
    np.testing.assert_allclose(late["w"], [0.1], rtol=1e-5)
    narrow = update_ema(ema, {"w": jnp.ones(2, jnp.bfloat16)}, decay=0.9, updates=0)
    assert narrow["w"].dtype == jnp.float32


def test_small_updates_need_wide_masters() -> None:
    """optax casts an update to its weight's dtype: in bfloat16 1 + 0.001 is 1, in float32 not."""
    optimizer = make_optimizer(OptimizerConfig(name="sgd", learning_rate=1e-3, **PLAIN), steps=9)
    moved = {}
    for dtype in (jnp.bfloat16, jnp.float32):
        weights, state = jnp.ones(1, dtype), optimizer.init(jnp.ones(1, dtype))
        for _ in range(9):
            updates, state = optimizer.update(jnp.ones(1, dtype), state, weights)
            weights = optax.apply_updates(weights, updates)
        moved[dtype] = float(1 - weights[0])
    assert moved[jnp.bfloat16] == 0.0
    np.testing.assert_allclose(moved[jnp.float32], 9e-3, rtol=1e-3)
