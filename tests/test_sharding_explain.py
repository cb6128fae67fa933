from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from maas_sdk.models.transformer import Decoder
from maas_sdk.models.transformer_config import DecoderConfig
from maas_sdk.sharding.explain import Explanation, explain
from maas_sdk.sharding.layout import lay_out
from maas_sdk.sharding.mesh import make_mesh
from maas_sdk.sharding.strategies import mesh_for

PARAMS = {
    "embed": {"embedding": jax.ShapeDtypeStruct((1001, 64), jnp.float32)},
    "head": {"kernel": jax.ShapeDtypeStruct((64, 1000), jnp.bfloat16)},
    "norm": {"scale": jax.ShapeDtypeStruct((64,), jnp.float32)},
}


def example() -> Explanation:
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    return explain(lay_out(PARAMS, mesh, strategy="fsdp+tensor", rules=[("hed", ())]))


def test_the_table_says_for_each_parameter_where_it_lies_and_why() -> None:
    """Shape, dtype, axes, bytes per device and the reason; then totals and what to mend."""
    assert example().table().splitlines() == [
        "strategy fsdp+tensor, mesh: fsdp 4 over ici, tensor 2 over ici",
        "",
        "parameter        shape    dtype     cut over      per device  because",
        "embed/embedding  1001×64  float32   -, fsdp          64.1 kB  "
        "preset (^|/)embed/embedding$ → tensor, fsdp",
        "head/kernel      64×1000  bfloat16  fsdp, tensor     16.0 kB  "
        "preset (^|/)head/kernel$ → fsdp, tensor",
        "norm/scale       64       float32   whole              256 B  nothing cuts it",
        "",
        "385 kB of parameters, 80.3 kB per device; 0.07 % whole on every device",
        "! rule 'hed' matches no parameter; mend or remove it. The nearest name is head/kernel",
        "! embed/embedding: dimension 0 of [1001, 64] does not divide by tensor=2, so it stays "
        "whole; pad it to 1002, or choose another mesh or rule",
    ]


def test_a_long_table_can_be_cut() -> None:
    """The largest come first, and the table says how many are missing."""
    lines = example().table(rows=1).splitlines()
    assert lines[3].startswith("embed/embedding")
    assert lines[4] == "… and 2 smaller ones"


def test_the_same_for_programs() -> None:
    """Everything the table says is in the dictionary, which JSON can hold."""
    found = json.loads(json.dumps(example().to_dict()))
    assert found["mesh"][0] == {"axis": "fsdp", "ici": 4, "dcn": 1, "network": "ici"}
    assert found["parameters"][1] == {
        "path": "head/kernel",
        "shape": [64, 1000],
        "dtype": "bfloat16",
        "source": "preset",
        "matched": "(^|/)head/kernel$ → fsdp, tensor",
        "partition": [["fsdp"], ["tensor"]],
        "bytes": 128000,
        "bytes_per_device": 16000,
    }
    assert found["bytes_per_device"] == 1001 * 64 + 16000 + 256
    assert found["replicated_share"] == pytest.approx(256 / (1001 * 64 * 4 + 128000 + 256))
    assert len(found["warnings"]) == 2


def test_a_large_model_is_explained_from_shapes_alone() -> None:
    """8 billion parameters on 8 devices: an eighth each, a row per kind of layer, no warning."""
    config = DecoderConfig.preset("llama3-8b", scan_layers=True)
    model = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    found = explain(lay_out(model, mesh_for("fsdp"), strategy="fsdp"))
    assert found.nbytes == 4 * 8_030_261_248
    assert found.bytes_per_device == pytest.approx(found.nbytes / 8, rel=1e-3)
    assert found.warnings == ()
    assert len(found.rows) == 12
