"""A run put together: what its step sends between devices."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx

from maas_sdk.errors import ConfigError
from maas_sdk.hlo.collectives import collectives
from maas_sdk.models.transformer import Decoder
from maas_sdk.models.transformer_config import DecoderConfig
from maas_sdk.training import Examples, TrainConfig
from maas_sdk.training.run.placement import mesh_of
from maas_sdk.training.run.setup import set_up_run


@pytest.mark.slow
def test_fsdp_gathers_weights_and_leaves_activations_where_they_are() -> None:
    """What a step sends grows with the weights, and hardly with the length of the rows."""
    generator = np.random.default_rng(0)

    kinds: set[str] = set()
    moved: set[str] = set()

    def sent(length: int) -> int:
        tokens = generator.integers(0, 64, (32, length))
        config = TrainConfig(steps=1, batch_size=16, strategy="fsdp", progress=False)
        shape = DecoderConfig.preset("decoder-tiny")
        run = set_up_run(
            config, Decoder(shape, rngs=nnx.Rngs(0)), Examples(inputs=tokens, labels=tokens)
        )
        found = collectives(run.train.compiled.as_text())
        looked_up = [one for one in found if "jit(_take)" in one.source]
        kinds.update(one.kind for one in found if one not in looked_up)
        moved.update(one.kind for one in looked_up)
        return sum(int(one.moved_bytes) * one.times for one in found)

    short, long = sent(8), sent(32)
    assert short > 0
    assert long < 1.5 * short
    # All-to-all or collective-permute would be activations on the move. An embedding is: its table
    # is cut along the width, so what was looked up, and its gradient, go from there to the rows.
    weights = {"all-gather", "all-reduce", "reduce-scatter"}
    assert {"all-gather"} <= kinds <= weights
    assert moved <= {*weights, "all-to-all"}
    assert jax.device_count() == 8


def test_slices_are_asked_for_and_must_be_there() -> None:
    """``dcn`` reaches the mesh: one slice is the plain mesh, two are refused where there is one."""
    plain = mesh_of(TrainConfig(strategy="fsdp"))
    assert mesh_of(TrainConfig(strategy="fsdp", dcn={"fsdp": 1})).shape == plain.shape
    with pytest.raises(ConfigError, match="dcn asks for 2 slices of 4 devices, found 1 of 8"):
        mesh_of(TrainConfig(strategy="fsdp", dcn={"fsdp": 2}))
