"""Pipelines are held against the same blocks one after another, on 4 and 8 devices."""

from __future__ import annotations

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.datasets import load_digits

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.hlo.collectives import collectives
from maas_sdk.models.transformer import Decoder
from maas_sdk.models.transformer_config import DecoderConfig
from maas_sdk.sharding.mesh import make_mesh
from maas_sdk.sharding.pipeline import Pipelined, pipeline, stack_blocks, stage_sharding

D = 16


def weights(blocks: int = 8) -> dict[str, jax.Array]:
    """{"w": [L, D, D], "b": [L, D]}."""
    rng = np.random.default_rng(0)
    return {
        "w": jnp.asarray(rng.normal(size=(blocks, D, D)) / D**0.5, jnp.float32),
        "b": jnp.asarray(rng.normal(size=(blocks, D)) / 10, jnp.float32),
    }


def rows(count: int = 48) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=(count, D)), jnp.float32)


def block(params: Any, x: jax.Array) -> jax.Array:
    return x + jnp.tanh(x @ params["w"] + params["b"])


def one_after_another(params: Any, x: Any, block: Any = block) -> Any:
    for i in range(jax.tree.leaves(params)[0].shape[0]):
        x = block(jax.tree.map(lambda leaf, i=i: leaf[i], params), x)
    return x


def mean_square(y: jax.Array) -> jax.Array:
    return (y**2).mean()


def worst(a: Any, b: Any) -> float:
    """The largest distance, relative to values above 1."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float((abs(x - y) / jnp.maximum(1, abs(y))).max()) for x, y in pairs)


def scaled(scale: jax.Array) -> Any:
    """The block, times what it closes over."""
    return lambda params, x: block(params, x) * scale


SCALE = jnp.linspace(0.5, 1.5, D)


@pytest.fixture(scope="module")
def expected() -> Any:
    """Loss and gradients of the plain model, by weights, input and scale."""

    def plain(params: Any, x: Any, scale: Any) -> jax.Array:
        return mean_square(one_after_another(params, x, scaled(scale)))

    return jax.jit(jax.value_and_grad(plain, argnums=(0, 1, 2)))(weights(), rows(), SCALE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("axes", "microbatches"),
    [
        ({"stage": 4}, 8),
        ({"stage": 4}, 1),
        ({"data": 2, "stage": 4}, 8),
        ({"data": 2, "stage": 4}, 6),
        ({"fsdp": 2, "stage": 4}, 4),
        ({"data": 2, "stage": 2, "tensor": 2}, 6),
    ],
    ids=str,
)
def test_loss_and_gradients_are_the_plain_models(
    axes: dict[str, int], microbatches: int, expected: Any
) -> None:
    """Within 1e-5 in f32, of the weights, the input and what the block closes over.

    Where the stages divide the microbatches, each hands out its share of the rows, elsewhere all
    of them have all.
    """
    mesh = make_mesh(axes)

    def staged(params: Any, x: Any, scale: Any) -> jax.Array:
        return mean_square(pipeline(scaled(scale), params, x, mesh=mesh, microbatches=microbatches))

    params = jax.device_put(weights(), stage_sharding(mesh))
    found = jax.jit(jax.value_and_grad(staged, argnums=(0, 1, 2)))(params, rows(), SCALE)
    assert worst(found, expected) <= 1e-5


def test_rematerialized_blocks_compute_the_same_and_keep_less() -> None:
    """``remat`` changes what is kept for the backward pass and nothing else."""
    mesh = make_mesh({"stage": 4})

    def wide(params: Any, x: jax.Array) -> jax.Array:
        return x + jnp.tanh(jnp.tile(jnp.tanh(x @ params["w"]), 8)).reshape(*x.shape, 8).mean(-1)

    def compiled(remat: bool) -> Any:
        def loss(params: Any, x: Any) -> jax.Array:
            y = pipeline(wide, params, x, mesh=mesh, microbatches=8, remat=remat)
            return mean_square(y)

        params = jax.device_put(weights(), stage_sharding(mesh))
        program = jax.jit(jax.value_and_grad(loss)).lower(params, rows(512)).compile()
        return program(params, rows(512)), program.memory_analysis().temp_size_in_bytes

    (kept, kept_bytes), (again, again_bytes) = compiled(False), compiled(True)
    assert worst(again, kept) <= 1e-5
    assert again_bytes < 0.6 * kept_bytes


def test_activations_may_be_a_tree() -> None:
    """A mask of truth values travels with its microbatch, and arrives unchanged."""
    mesh = make_mesh({"data": 2, "stage": 4})
    mask = jnp.asarray(np.random.default_rng(2).random(48) > 0.5)

    def masked(params: Any, x: Any) -> Any:
        return {
            "h": jnp.where(x["mask"][:, None], block(params, x["h"]), x["h"]),
            "mask": x["mask"],
        }

    x = {"h": rows(), "mask": mask}
    expected = one_after_another(weights(), x, masked)
    for microbatches in (4, 3):
        found = jax.jit(
            lambda p, x, m=microbatches: pipeline(masked, p, x, mesh=mesh, microbatches=m)
        )(weights(), x)
        np.testing.assert_array_equal(found["mask"], mask)
        np.testing.assert_allclose(found["h"], expected["h"], atol=1e-5)


def test_a_blocks_infinity_at_zero_stays_out_of_the_gradients() -> None:
    """Idle ticks compute on real rows: a block that divides by a norm has finite gradients."""
    mesh = make_mesh({"stage": 4})

    def unit(params: Any, x: jax.Array) -> jax.Array:
        return (x @ params["w"]) / jnp.linalg.norm(x, axis=-1, keepdims=True)

    def loss(params: Any) -> jax.Array:
        return mean_square(pipeline(unit, params, rows(), mesh=mesh, microbatches=4))

    grads = jax.jit(jax.grad(loss))(weights(4))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_half_precision_passes_through() -> None:
    """bf16 activations come out as bf16, close to the plain model's."""
    mesh = make_mesh({"data": 2, "stage": 4})
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (weights(), rows()))
    found = jax.jit(lambda p, x: pipeline(block, p, x, mesh=mesh, microbatches=4))(*half)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        found.astype(np.float32), one_after_another(*half).astype(np.float32), atol=0.2
    )


def test_stages_hold_their_own_weights_and_pass_activations_on() -> None:
    """In the compiled step: a permutation along the stages per tick and direction, no weight moved.

    The collectives besides: rows that the last stage hands out to all (and takes back), and the
    sums of gradients over ``data``.
    """
    mesh = make_mesh({"data": 2, "stage": 4})
    params = jax.device_put(weights(), stage_sharding(mesh))
    for leaf in jax.tree.leaves(params):
        for shard in leaf.addressable_shards:
            [stage] = np.argwhere(mesh.devices == shard.device)[:, 1]
            assert shard.index[0] == slice(2 * stage, 2 * stage + 2, None)
            assert shard.data.shape == (2, *leaf.shape[1:])

    def step(params: Any, x: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            return mean_square(pipeline(block, params, x, mesh=mesh, microbatches=4))

        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    program = jax.jit(step).lower(params, rows()).compile()
    found = collectives(program.as_text(), mesh.shape)
    along = Counter((one.kind, one.axes) for one in found)
    assert along["collective-permute", ("stage",)] == 2
    assert {one.times for one in found if one.kind == "collective-permute"} == {4 + 3}
    for one in found:
        if one.axes == ("data",):
            assert one.kind == "all-reduce"
        elif one.kind != "collective-permute":
            assert one.kind in ("reduce-scatter", "all-gather", "all-reduce")
            assert one.axes == ("stage",)
            assert one.nbytes <= rows().nbytes // 2, "more than the rows of one group"
    new = program(params, jax.device_put(rows(), program.input_shardings[0][1]))
    assert new["w"].sharding.is_equivalent_to(params["w"].sharding, 3)


class Mixer(nnx.Module):
    """Pre-norm residual block over the 8 rows of an image: [B, T, D] → [B, T, D]."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.LayerNorm(D, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(num_heads=2, in_features=D, decode=False, rngs=rngs)
        self.up = nnx.Linear(D, 2 * D, rngs=rngs)
        self.down = nnx.Linear(2 * D, D, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm(x))
        return x + self.down(nnx.gelu(self.up(x)))


class Reader(nnx.Module):
    """A digit as a sequence of 8 rows of 8 pixels: embed → blocks → head."""

    def __init__(self, mesh: Any, *, remat: bool, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Linear(8, D, rngs=rngs)
        self.layers = Pipelined(
            [Mixer(rngs) for _ in range(4)], mesh=mesh, microbatches=4, remat=remat
        )
        self.head = nnx.Linear(D, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, 8, 8] → logits [B, 10]."""
        return self.head(self.layers(self.embed(images)).mean(axis=1))


def losses_of(mesh: Any, *, steps: int, remat: bool = False) -> list[float]:
    """Train on the digits, 32 rows a step, in order."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    graphdef, params = nnx.split(Reader(mesh, remat=remat, rngs=nnx.Rngs(0)))
    if mesh is not None:
        stages = stage_sharding(mesh)
        params["layers"] = jax.device_put(params["layers"], stages)
    optimizer = optax.adam(1e-2)
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params: Any, opt_state: Any, x: Any, y: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            logits = nnx.merge(graphdef, params)(x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    losses = []
    for i in range(steps):
        rows = slice(32 * i % 1728, 32 * i % 1728 + 32)
        params, opt_state, loss = step(params, opt_state, images[rows], digits.target[rows])
        losses.append(loss)
    return [float(loss) for loss in losses]


@pytest.mark.slow
def test_a_model_of_embedding_blocks_and_head_learns_in_stages() -> None:
    """Transformer blocks on digits as sequences, 2 × 4 devices: the plain run's losses, falling."""
    plain = losses_of(None, steps=20)
    staged = losses_of(make_mesh({"data": 2, "stage": 4}), steps=20, remat=True)
    # Rounding differs and training amplifies it; the first steps are as close as one step is.
    np.testing.assert_allclose(staged[:10], plain[:10], atol=1e-5)
    np.testing.assert_allclose(staged, plain, atol=0.02)
    assert np.mean(staged[-5:]) < 0.75 * staged[0]


def test_blocks_may_be_stacked_already_and_run_without_a_mesh() -> None:
    """One trained model answers the same in stages and, with ``mesh = None``, on one device."""
    mesh = make_mesh({"stage": 4})
    blocks = [Mixer(nnx.Rngs(i)) for i in range(4)]
    layer = Pipelined(nnx.merge(*stack_blocks(blocks)), mesh=mesh, microbatches=2)
    assert {path[0] for path, _ in nnx.to_flat_state(nnx.state(layer))} == {"blocks"}
    x = rows(24).reshape(4, 6, D)
    staged = nnx.jit(lambda layer, x: layer(x))(layer, x)
    layer.mesh = None
    expected = jax.jit(lambda x: blocks[3](blocks[2](blocks[1](blocks[0](x)))))(x)
    plain = nnx.jit(lambda layer, x: layer(x))(layer, x)
    np.testing.assert_allclose(plain, expected, atol=1e-5)
    np.testing.assert_allclose(staged, expected, atol=1e-5)


@pytest.mark.slow
def test_a_decoders_layers_may_be_put_in_stages() -> None:
    """A language model of ``models`` computes the same logits and gradients in stages."""
    config = DecoderConfig.preset("decoder-tiny", layers=4, scan_layers=True)
    decoder = Decoder(config, rngs=nnx.Rngs(0))
    tokens = jnp.arange(8 * 12).reshape(8, 12) % config.vocab_size

    def loss(model: Any, tokens: Any) -> jax.Array:
        return -jax.nn.log_softmax(model(tokens))[..., 1].mean()

    grad = nnx.jit(nnx.value_and_grad(loss))
    expected, gradients = grad(decoder, tokens)
    decoder.layers = Pipelined(
        decoder.layers, mesh=make_mesh({"data": 2, "stage": 4}), microbatches=2, remat=True
    )
    found, staged = grad(decoder, tokens)
    assert abs(found - expected) <= 1e-5
    assert worst(staged["layers"]["blocks"], gradients["layers"]) <= 1e-5
    assert worst(staged["embed"], gradients["embed"]) <= 1e-5


def test_stacking_pytrees_keeps_their_order() -> None:
    """Block i's arrays are at index i."""
    one = {"w": jnp.zeros((2, 3))}
    stacked = stack_blocks([one, {"w": jnp.ones((2, 3))}])
    assert stacked["w"].shape == (2, 2, 3)
    assert float(stacked["w"][1].min()) == 1
    with pytest.raises(ConfigError, match=r"block 1 is unlike block 0: .*\[2, 3\], got .*\[3\]"):
        stack_blocks([one, {"w": jnp.zeros(3)}])
    with pytest.raises(ConfigError, match="at least one block, got none"):
        stack_blocks([])
    with pytest.raises(ConfigError, match="block 1 is built differently from block 0"):
        stack_blocks([nnx.LayerNorm(4, rngs=nnx.Rngs(0)), nnx.RMSNorm(4, rngs=nnx.Rngs(0))])


def test_what_does_not_fit_is_said_before_anything_runs() -> None:
    """The axis, the blocks, the rows, the output of a block; each with the numbers."""
    mesh = make_mesh({"data": 2, "stage": 4})

    def run(block: Any = block, params: Any = None, x: Any = None, microbatches: int = 4) -> Any:
        params = weights() if params is None else params
        x = rows() if x is None else x
        return pipeline(block, params, x, mesh=mesh, microbatches=microbatches)

    with pytest.raises(ConfigError, match="6 blocks cannot be divided into 4 stages"):
        run(params=weights(6))
    with pytest.raises(
        ConfigError,
        match="20 rows cannot be cut evenly into 4 microbatches on each of 2 devices along data; "
        "the nearest that can are 16 rows",
    ):
        run(x=rows(20))
    with pytest.raises(ConfigError, match="microbatches: expected 1 or more, got 0"):
        run(microbatches=0)
    with pytest.raises(InputError, match=r"expected float32\[48, 16\], got float32\[48\]"):
        run(block=lambda p, h: h.mean(axis=1))
    with pytest.raises(InputError, match=r"one common first dimension, got \[8, 16\], \[7, 16, 16"):
        run(params={**weights(), "w": weights(7)["w"]})
    with pytest.raises(ConfigError, match="a mesh axis 'stage'; this mesh has data"):
        stage_sharding(make_mesh({"data": 8}))


def test_a_block_with_a_memory_is_refused() -> None:
    """Batch statistics and random streams cannot be handed on by microbatches."""
    for make, kind in (
        (lambda rngs: nnx.BatchNorm(4, rngs=rngs), "BatchStat"),
        (lambda rngs: nnx.Dropout(0.5, rngs=rngs), "RngCount, RngKey"),
    ):
        with pytest.raises(ConfigError, match=f"parameters alone, got variables of {kind}"):
            Pipelined([make(nnx.Rngs(0)) for _ in range(4)], microbatches=2)
