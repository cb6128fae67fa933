from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import qwix
from flax import nnx
from jax.sharding import PartitionSpec

from maas_sdk.errors import ConfigError
from maas_sdk.models.mlp import MLP, MLPConfig
from maas_sdk.sharding.layout import (
    batch_sharding,
    check_batch_size,
    host_part,
    lay_out,
    place,
    place_batch,
    replicated,
    row_parts,
    state_shardings,
)
from maas_sdk.sharding.mesh import make_mesh
from maas_sdk.sharding.strategies import mesh_for
from maas_sdk.training.checkpoints.manager import Checkpoints
from maas_sdk.training.checkpoints.retention import CheckpointConfig

BOTH = {"fsdp": 4, "tensor": 2}


def mlp() -> MLP:
    return MLP(MLPConfig(features=64, hidden_features=(32, 32), outputs=16), rngs=nnx.Rngs(0))


def specs(tree: Any) -> dict[str, PartitionSpec]:
    """Partition of each leaf by its ``keystr``."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): leaf.spec for path, leaf in leaves}


def test_shardings_have_the_structure_of_the_parameters() -> None:
    """A module, its state and its shapes are laid out alike, each leaf with its sharding."""
    model, mesh = mlp(), make_mesh(BOTH)
    state = nnx.state(model, nnx.Param)
    found = lay_out(state, mesh, strategy="fsdp+tensor")
    assert jax.tree.structure(found.shardings) == jax.tree.structure(state)
    for same in (model, jax.eval_shape(lambda: state)):
        assert lay_out(same, mesh, strategy="fsdp+tensor").rows == found.rows
    kernel = found.shardings["hidden"][0]["kernel"].get_value()
    assert kernel.spec == PartitionSpec("fsdp", "tensor")


def test_linen_annotations_become_shardings() -> None:
    """``nn.with_logical_partitioning`` is read, its boxes stay around the shardings."""
    init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("embed", "mlp"))
    variables = nn.Dense(8, kernel_init=init).init(jax.random.key(0), jnp.ones((1, 16)))
    found = lay_out(variables, make_mesh(BOTH), strategy="fsdp+tensor")
    assert found.shardings["params"]["kernel"].unbox().spec == PartitionSpec("fsdp", "tensor")
    assert found.rows[1].source == "annotation"


def test_optimizer_state_follows_its_weights() -> None:
    """Both moments are cut like their parameter; the count of steps is whole."""
    params = nnx.state(mlp(), nnx.Param)
    found = lay_out(params, make_mesh(BOTH), strategy="fsdp+tensor")
    state = jax.eval_shape(optax.adam(0.1).init, params)
    following = specs(state_shardings(found, state))
    kernel = "['hidden'][0]['kernel'].value"
    assert following[f"[0].mu{kernel}"] == following[f"[0].nu{kernel}"]
    assert following[f"[0].mu{kernel}"] == PartitionSpec("fsdp", "tensor")
    assert following["[0].count"] == PartitionSpec()


def test_factored_moments_follow_their_dimension() -> None:
    """Adafactor keeps one number per row and one per column; each is cut like its dimension."""
    params = {"w": jnp.ones((256, 128))}
    rules = [("w", ("fsdp", "tensor"))]
    found = lay_out(params, make_mesh(BOTH), strategy="fsdp+tensor", rules=rules)
    factored = optax.scale_by_factored_rms(min_dim_size_to_factor=64)
    state = jax.eval_shape(factored.init, params)
    shapes = {leaf.shape for leaf in jax.tree.leaves((state.v_row, state.v_col))}
    assert shapes == {(256,), (128,)}
    following = state_shardings(found, state)
    by_shape = {
        leaf.shape: sharding.spec
        for leaf, sharding in zip(
            jax.tree.leaves((state.v_row, state.v_col)),
            jax.tree.leaves((following.v_row, following.v_col)),
            strict=True,
        )
    }
    assert by_shape == {(256,): PartitionSpec("fsdp"), (128,): PartitionSpec("tensor")}


def test_scales_of_a_quantized_model_follow_their_weights() -> None:
    """int8 numbers are cut by the kernel's rule; a scale is whole where its dimension is 1."""
    rule = qwix.QuantizationRule(module_path=".*", weight_qtype=jnp.int8, act_qtype=jnp.int8)
    quantized = qwix.quantize_model(mlp(), qwix.PtqProvider([rule]), jnp.ones((2, 64), jnp.float32))
    # As a reader of such a model names its arrays: without qwix's wrapper in the path.
    weights = {
        "/".join(str(part) for part in path if part != "array"): variable.get_value()
        for path, variable in nnx.to_flat_state(nnx.state(quantized, nnx.Param))
    }
    found = {
        row.path: row for row in lay_out(weights, make_mesh(BOTH), strategy="fsdp+tensor").rows
    }
    kernel, scale = found["hidden/0/kernel/qvalue"], found["hidden/0/kernel/scale"]
    assert kernel.spec == PartitionSpec("fsdp", "tensor")
    assert scale.shape == (1, 32)
    assert scale.spec == PartitionSpec(None, "tensor")
    assert (scale.source, scale.matched) == ("follows", "follows hidden/0/kernel/qvalue")
    assert not scale.notes
    # The module itself, where qwix keeps its numbers in wrappers, is laid out the same.
    rows = lay_out(quantized, make_mesh(BOTH), strategy="fsdp+tensor").rows
    assert sorted((row.shape, str(row.spec)) for row in rows) == sorted(
        (row.shape, str(row.spec)) for row in found.values()
    )


def test_scales_follow_a_layout_of_the_model_before_it_was_quantized() -> None:
    """What lies inside a weight's path belongs to the weight."""
    found = lay_out(
        {"head": {"kernel": jnp.ones((64, 16))}}, make_mesh(BOTH), strategy="fsdp+tensor"
    )
    state = {
        "head": {"kernel": {"qvalue": jnp.ones((64, 16), jnp.int8), "scale": jnp.ones((1, 16))}}
    }
    inside = state_shardings(found, {"params": state})["params"]["head"]["kernel"]
    assert inside["qvalue"].spec == PartitionSpec("fsdp", "tensor")
    assert inside["scale"].spec == PartitionSpec(None, "tensor")


def test_a_checkpoint_of_one_layout_is_read_into_another(tmp_path: Path) -> None:
    """Weights and moments saved under FSDP over 8 come back cut for 2 × 2, number by number."""
    params = nnx.state(mlp(), nnx.Param)
    state = {"params": params, "opt_state": optax.adam(0.1).init(params)}

    def shardings(mesh: Any, strategy: str) -> Any:
        return state_shardings(lay_out(params, mesh, strategy=strategy, min_shard_bytes=0), state)

    wanted = shardings(make_mesh({"fsdp": 2, "tensor": 2}), "fsdp+tensor")
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        wanted,
    )
    with Checkpoints(CheckpointConfig(folder=tmp_path)) as checkpoints:
        checkpoints.save(1, place(state, shardings(mesh_for("fsdp"), "fsdp")))
        restored = checkpoints.restore(abstract)
    found = jax.tree.leaves(restored[0])
    for one, given, sharding in zip(
        found, jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True
    ):
        assert one.sharding == sharding
        np.testing.assert_array_equal(one, given)


def test_a_rule_that_matches_nothing_is_said() -> None:
    """The warning names the rule and the parameter that was probably meant."""
    found = lay_out(mlp(), make_mesh(BOTH), strategy="fsdp+tensor", rules=[("haed/kernel", ())])
    assert found.warnings == (
        "rule 'haed/kernel' matches no parameter; mend or remove it. The nearest name is "
        "head/kernel",
    )


def test_a_rule_behind_a_wider_one_is_said() -> None:
    """The warning names the rule in front that took its parameters."""
    rules = [("kernel", (None, "fsdp")), ("head/kernel$", ("fsdp", None))]
    (warning,) = lay_out(mlp(), make_mesh(BOTH), strategy="fsdp", rules=rules).warnings[:1]
    assert "rule 'head/kernel$' decides about nothing: 'head/kernel' is decided by" in warning
    assert "an earlier rule, 'kernel → -, fsdp'; put the narrower rule in front" in warning


def test_a_model_that_is_mostly_whole_is_said() -> None:
    """More than 2 % whole under a strategy that cuts: the share, the largest and the remedy."""
    params = {"a": jnp.ones((1001, 100)), "hidden": [{"kernel": jnp.ones((512, 512))}]}
    found = lay_out(params, make_mesh({"tensor": 8}), strategy="tensor")
    assert found.replicated_share == pytest.approx(100100 / (100100 + 512 * 512))
    (warning,) = found.warnings
    assert warning.startswith("27.63 % of the parameters' bytes are whole on every device")
    assert "more than 2 %; the largest is 'a' (400 kB): give it a rule, or use 'fsdp+te" in warning


def test_axes_that_do_nothing_are_said() -> None:
    """A strategy without its axis, and devices that would repeat one another's work."""
    (missing,) = lay_out(mlp(), mesh_for("data"), strategy="fsdp").warnings
    assert "strategy 'fsdp' cuts weights over 'fsdp', which this mesh (data) does not" in missing
    assert "make the mesh with mesh_for('fsdp')" in missing
    (idle,) = lay_out(mlp(), make_mesh({"data": 4, "tensor": 2}), strategy="data").warnings
    assert idle.startswith("mesh axis 'tensor' cuts nothing: its 2 devices all do the same work")


def test_data_parallelism_is_meant_to_be_whole() -> None:
    """No warning where nothing was to be cut; the share is told all the same."""
    found = lay_out(mlp(), mesh_for("data"), strategy="data_parallel")
    assert (found.strategy, found.warnings, found.replicated_share) == ("data", (), 1.0)


def test_one_percent_whole_is_no_warning() -> None:
    """Norms and biases are left whole without a word."""
    params = {"kernel": jnp.ones((256, 512)), "scale": jnp.ones(512)}
    found = lay_out(params, mesh_for("fsdp"), strategy="fsdp")
    assert 0 < found.replicated_share < 0.02
    assert found.warnings == ()


def test_a_batch_is_cut_by_rows() -> None:
    """Each device holds its share of the rows, in order, and the whole is what it was."""
    rows = np.arange(16 * 3).reshape(16, 3)
    for mesh in (mesh_for("data"), mesh_for("fsdp"), make_mesh({"data": 2, "fsdp": 4})):
        batch: dict[str, Any] = {"inputs": rows}
        placed = place_batch(mesh, batch)["inputs"]
        assert [shard.data.shape for shard in placed.addressable_shards] == [(2, 3)] * 8
        np.testing.assert_array_equal(placed, rows)


def test_a_batch_is_whole_over_the_other_axes() -> None:
    """Only ``data`` and ``fsdp`` cut rows; devices along ``tensor`` see the same ones."""
    rows: Any = np.arange(8)
    placed = place_batch(make_mesh({"data": 2, "tensor": 4}), rows)
    assert {shard.data.shape for shard in placed.addressable_shards} == {(4,)}
    alone = make_mesh({"tensor": 8})
    assert place_batch(alone, rows).sharding.is_fully_replicated
    assert (row_parts(alone), row_parts(make_mesh({"data": 2, "fsdp": 4}))) == (1, 8)


@pytest.mark.parametrize(("size", "nearest"), [(0, 8), (20, 16), (63, 64)])
def test_a_batch_that_cannot_be_cut_evenly_is_refused(size: int, nearest: int) -> None:
    """The message names the nearest size that can."""
    with pytest.raises(ConfigError, match=f"over 8 devices; the nearest that can is {nearest}"):
        check_batch_size(mesh_for("data"), size)
    check_batch_size(make_mesh({"tensor": 8}), 5)


def test_what_is_placed_shares_nothing_with_the_original() -> None:
    """Donating what was placed leaves the caller's arrays alive, wherever those lay."""
    mesh = mesh_for("data")
    for sharding in (replicated(mesh), batch_sharding(mesh)):
        on_one, on_host = jnp.arange(8.0), np.arange(8.0, dtype=np.float32)
        for original in (on_one, place(on_one, sharding), on_host):
            copy = place(original, sharding)
            assert copy.sharding == sharding
            jax.jit(lambda x: x + 1, donate_argnums=0)(copy).block_until_ready()
            np.testing.assert_array_equal(original, np.arange(8.0))


def test_random_keys_can_be_placed() -> None:
    """A model's random streams are state as well."""
    mesh = mesh_for("data")
    placed = place({"key": jax.random.key(3)}, replicated(mesh))
    assert jax.random.uniform(placed["key"]) == jax.random.uniform(jax.random.key(3))
    assert state_shardings(lay_out({}, mesh), placed)["key"].spec == PartitionSpec()


def test_one_process_reads_the_whole_batch() -> None:
    """Alone, a process has the only part, on any mesh."""
    for mesh in (mesh_for("data"), mesh_for("tensor"), make_mesh({"fsdp": 4, "tensor": 2})):
        assert host_part(mesh) == (0, 1)


def test_layouts_only_look_at_shapes() -> None:
    """70 billion parameters are laid out in no memory."""
    shapes = {"w": jax.ShapeDtypeStruct((2**20, 2**16), jnp.bfloat16)}
    (row,) = lay_out(shapes, mesh_for("fsdp"), strategy="fsdp").rows
    assert (row.nbytes, row.bytes_per_device) == (2**37, 2**34)
