"""Rows stay cut: FSDP gathers weights, and what a module computes does not change."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maas_sdk.hlo.collectives import collectives
from maas_sdk.models.transformer import Decoder
from maas_sdk.models.transformer_config import DecoderConfig
from maas_sdk.sharding.activations import keep_rows_cut
from maas_sdk.sharding.layout import batch_sharding, lay_out
from maas_sdk.sharding.mesh import make_mesh


def decoder() -> Decoder:
    config = DecoderConfig.preset("decoder-tiny", layers=2, scan_layers=True, remat=True)
    return Decoder(config, rngs=nnx.Rngs(0))


def test_values_do_not_change():
    """The same logits, and a state of the same structure, with one device's arrays."""
    model = decoder()
    mesh = make_mesh({"fsdp": 8})
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 8)))
    cut = keep_rows_cut(model, mesh, 8)
    assert jax.tree.structure(nnx.state(cut)) == jax.tree.structure(nnx.state(model))
    assert type(model) is Decoder
    np.testing.assert_allclose(jax.jit(cut)(tokens), model(tokens), rtol=2e-5, atol=2e-5)
    for axes in ({"tensor": 8}, {"data": 8}, {"data": 4, "tensor": 2}):
        assert keep_rows_cut(model, make_mesh(axes), 8) is model


def step_text(model: nnx.Module, mesh: jax.sharding.Mesh, tokens: jax.ShapeDtypeStruct) -> str:
    """A gradient step's compiled program, weights by FSDP."""
    parts = nnx.split(nnx.eval_shape(lambda: model), nnx.Param, ...)
    graph, params, rest = parts
    layout = lay_out(params, mesh, strategy="fsdp", min_shard_bytes=0)

    def placed(shape, sharding):
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    def loss(params, tokens):
        logits = nnx.merge(graph, params, rest)(tokens)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1)
        return -picked.mean()

    shapes = jax.tree.map(placed, params, layout.shardings)
    gradient = jax.jit(jax.grad(loss), out_shardings=layout.shardings)
    lowered = gradient.lower(shapes, placed(tokens, batch_sharding(mesh)))
    text = lowered.compile().as_text()
    assert text is not None
    return text


@pytest.mark.slow
def test_weights_are_gathered_and_activations_stay():
    """With rows cut, no collective is as large as an activation of the whole batch."""
    mesh = make_mesh({"fsdp": 8})
    rows, length = 64, 16
    tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    model = decoder()
    whole_batch = rows * length * model.config.features * 4
    cut = collectives(step_text(keep_rows_cut(model, mesh, rows), mesh, tokens), mesh.shape)
    assert {one.kind for one in cut} >= {"all-gather"}
    largest = max(shape.nbytes for one in cut for shape in one.shapes)
    assert largest < whole_batch / 2
    plain = collectives(step_text(model, mesh, tokens), mesh.shape)
    sent = [sum(one.times * one.moved_bytes for one in found) for found in (cut, plain)]
    assert sent[0] < sent[1] / 2
