from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maas_sdk.errors import ConfigError
from maas_sdk.models.stack import check_remat, make_layers, run_layers


class Block(nnx.Module):
    """A dense layer with dropout, added to what came in."""

    def __init__(self, rngs: nnx.Rngs, *, features: int = 4, rate: float = 0.0) -> None:
        self.dense = nnx.Linear(features, features, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs) if rate else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jnp.tanh(self.dense(x))
        return x + (y if self.dropout is None else self.dropout(y))


X = np.random.default_rng(0).random((2, 4), np.float32)


def outcome(*, scan: bool, remat: bool | str) -> tuple[jax.Array, jax.Array]:
    """Output, and gradient of each layer's kernel [L, 4, 4]."""
    layers = make_layers(Block, count=3, scan=scan, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(layers)

    def run(state: nnx.State) -> jax.Array:
        layers = nnx.merge(graphdef, state)
        return run_layers(layers, jnp.asarray(X), lambda b, x: b(x), remat=remat)

    gradients = jax.jit(jax.grad(lambda state: run(state).sum()))(state)
    found = nnx.merge(graphdef, gradients)
    kernels = found.dense.kernel[...] if scan else [block.dense.kernel[...] for block in found]
    return jax.jit(run)(state), jnp.stack(list(kernels))


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("remat", [False, True, "dots", "nothing"])
def test_all_ways_compute_the_same(scan: bool, remat: bool | str) -> None:
    """Listed or stacked, rematerialized or not: one seed gives one output and one gradient."""
    for found, expected in zip(
        outcome(scan=scan, remat=remat), outcome(scan=False, remat=False), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("remat", [False, True])
def test_random_streams_go_on(scan: bool, remat: bool) -> None:
    """Dropout draws anew in every call and in every layer, and what it counts is written back."""
    layers = make_layers(lambda rngs: Block(rngs, rate=0.5), count=3, scan=scan, rngs=nnx.Rngs(0))

    def run() -> jax.Array:
        return run_layers(layers, jnp.asarray(X), lambda b, x: b(x), remat=remat)

    first, second = run(), run()
    assert not np.array_equal(first, second)
    counts = jax.tree.leaves(nnx.state(layers, nnx.RngCount))
    assert {int(count) for leaf in counts for count in np.ravel(leaf)} == {2}


def test_remat_is_in_the_program() -> None:
    """The backward pass of a rematerialized block computes its tanh a second time."""
    layers = nnx.eval_shape(lambda: make_layers(Block, count=3, scan=True, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(layers)

    def tanhs(remat: bool) -> int:
        def loss(state: nnx.State) -> jax.Array:
            layers = nnx.merge(graphdef, state)
            return run_layers(layers, jnp.asarray(X), lambda b, x: b(x), remat=remat).sum()

        return jax.jit(jax.grad(loss)).lower(state).as_text().count("stablehlo.tanh")

    assert (tanhs(False), tanhs(True)) == (1, 2)


def test_an_unknown_policy_is_told() -> None:
    """``remat`` is a bool or one of the names in the message."""
    check_remat("dots")
    with pytest.raises(ConfigError, match="remat: expected False, True or one of dots, nothing"):
        check_remat("everything")
