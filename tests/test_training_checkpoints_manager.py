from __future__ import annotations

import gc
import math
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint.experimental.v1 as ocp
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from maas_sdk.errors import ConfigError, CorruptError, NotFoundError, StorageError
from maas_sdk.training.checkpoints.manager import CheckpointConfig, Checkpoints
from maas_sdk.training.checkpoints.named_state import named_arrays, raw
from tests.kit.damage import flip

Change = Callable[[Path], None]


class Net(nnx.Module):
    """A model with everything that is not a parameter."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(16, 16, rngs=rngs) for _ in range(2)])


def mesh_of(devices: int) -> Mesh:
    return jax.make_mesh(
        (devices,),
        ("fsdp",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:devices],
    )


def sharded(mesh: Mesh, tree: Any) -> Any:
    """Shardings for a tree of arrays: rows over the mesh where they can be cut, else replicated."""

    def sharding(leaf: Any) -> NamedSharding:
        rows = leaf.ndim > 0 and leaf.shape[0] > 0 and leaf.shape[0] % mesh.size == 0
        return NamedSharding(mesh, P("fsdp") if rows and leaf.ndim > 1 else P())

    return jax.tree.map(sharding, tree)


def abstract(mesh: Mesh, tree: Any) -> Any:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        sharded(mesh, tree),
    )


def make_state(devices: int = 8) -> Any:
    """What a training step changes: weights, statistics, random streams, moments, a counter."""
    _, params, rest = nnx.split(Net(nnx.Rngs(3)), nnx.Param, ...)
    opt_state = optax.chain(optax.clip(1.0), optax.adamw(1e-3)).init(params)
    odd = {
        name: jnp.asarray(np.arange(4), name)
        for name in ("bfloat16", "float16", "int4", "uint8", "bool", "float8_e4m3fn")
    }
    tree = {
        "params": params,
        "rest": rest,
        "opt_state": opt_state,
        "ema": None,
        "step": jnp.asarray(7, jnp.int32),
        "odd": odd,
        "empty": jnp.zeros((0, 3), jnp.bfloat16),
    }
    return jax.device_put(tree, sharded(mesh_of(devices), tree))


def bits(tree: Any) -> dict[str, bytes]:
    return {name: np.asarray(raw(leaf)).tobytes() for name, leaf in named_arrays(tree).items()}


def small(value: float) -> dict[str, jax.Array]:
    return {"w": jnp.full((4,), value)}


@pytest.fixture
def config(tmp_path: Path) -> CheckpointConfig:
    return CheckpointConfig(folder=tmp_path / "run")


@pytest.mark.parametrize("devices", [8, 4, 1])
def test_a_state_comes_back_bit_for_bit_on_any_mesh(devices: int, tmp_path: Path) -> None:
    """Every dtype, typed random keys, empty arrays and the tree's own classes; cut as asked for."""
    state = make_state(8)
    with Checkpoints(CheckpointConfig(folder=tmp_path)) as checkpoints:
        assert checkpoints.save(7, state, {"epoch": [1, None]}, {"loss": 0.5})
        wanted = abstract(mesh_of(devices), state)
        restored, data_state, step = checkpoints.restore(wanted)
    assert (data_state, step) == ({"epoch": [1, None]}, 7)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert bits(restored) == bits(state)
    for name, leaf in named_arrays(restored).items():
        asked = dict(zip(named_arrays(state), jax.tree.leaves(wanted), strict=True))[name]
        assert leaf.sharding.is_equivalent_to(asked.sharding, leaf.ndim), name
        assert leaf.dtype == asked.dtype, name
    kernel = restored["params"]["layers"][0]["kernel"][...]
    assert kernel.addressable_shards[0].data.shape == (16 // devices, 16)


def in_a_child(folder: Path, devices: int, step: int) -> str:
    """Restore the latest checkpoint in a process with so many devices, and save it as ``step``."""
    code = (
        "import sys, runpy; m = runpy.run_path(sys.argv[1]); "
        "m['take_over'](sys.argv[2], int(sys.argv[3]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, __file__, str(folder), str(step)],
        env={**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def take_over(folder: str, step: int) -> None:
    """What the child does."""
    mesh = mesh_of(len(jax.devices()))
    with Checkpoints(CheckpointConfig(folder=folder)) as checkpoints:
        # Arrays with shardings are as good as a description of them.
        state, data_state, _ = checkpoints.restore(abstract(mesh, make_state(1)))
        checkpoints.save(step, state, data_state)
    kernel = state["params"]["layers"][0]["kernel"][...]
    print(len(kernel.sharding.device_set), kernel.addressable_shards[0].data.shape[0])


@pytest.mark.slow
def test_eight_devices_then_one_then_four(tmp_path: Path) -> None:
    """Processes that have another number of devices take a run over, each from the one before."""
    state = make_state(8)
    config = CheckpointConfig(folder=tmp_path)
    with Checkpoints(config) as checkpoints:
        checkpoints.save(1, state, {"taken": 1})
    assert in_a_child(tmp_path, devices=1, step=2) == "1 16"
    assert in_a_child(tmp_path, devices=4, step=3) == "4 4"
    with Checkpoints(config) as checkpoints:
        restored, data_state, step = checkpoints.restore(abstract(mesh_of(8), state))
    assert (data_state, step) == ({"taken": 1}, 3)
    assert bits(restored) == bits(state)


@pytest.mark.parametrize("snapshot", [True, False])
def test_the_state_may_be_donated_when_save_returns(snapshot: bool, tmp_path: Path) -> None:
    """Steps that overwrite the state's memory do not reach what is being written."""
    sharding = NamedSharding(mesh_of(8), P("fsdp"))
    state = {"w": jax.device_put(np.zeros((8, 1 << 18), np.float32), sharding)}
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    config = CheckpointConfig(folder=tmp_path, keep_latest=9, snapshot=snapshot)
    with Checkpoints(config) as checkpoints:
        for index in range(1, 10):
            state = step(state)
            checkpoints.save(index, state)
            state = step(state)
            state = step(state)
        for index in checkpoints.steps():
            saved = checkpoints.restore(state, index).state["w"]
            np.testing.assert_array_equal(saved, 3 * (index - 1) + 1)


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    """Two newest and the best one, whatever came after it; the metrics are kept with them."""
    losses = {1: 0.5, 2: 0.1, 3: 0.7, 4: math.nan, 5: 0.6, 6: 0.4}
    config = CheckpointConfig(folder=tmp_path, keep_latest=2, keep_best=1)
    with Checkpoints(config) as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(step, small(step), metrics={"loss": loss})
        assert checkpoints.steps() == [2, 5, 6]
        assert (checkpoints.best_step(), checkpoints.latest_step()) == (2, 6)
        assert checkpoints.metrics(2) == {"loss": 0.1}
        best = checkpoints.restore(small(0), "best")
        assert (best.step, float(best.state["w"][0])) == (2, 2.0)


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("max", [0.2, math.nan, 0.9, 0.3], 3),
        ("min", [math.nan, 0.4, 0.4, math.inf], 3),
        ("min", [math.nan, math.nan], None),
        ("max", [None, None], None),
    ],
)
def test_nan_never_wins(
    mode: Any, values: list[float | None], best: int | None, tmp_path: Path
) -> None:
    """First or later, under both modes; of equals the newest is the best; nor what has none."""
    config = CheckpointConfig(
        folder=tmp_path, keep_latest=1, keep_best=1, best_metric="score", mode=mode
    )
    with Checkpoints(config) as checkpoints:
        for step, value in enumerate(values, 1):
            metrics = None if value is None else {"score": value}
            checkpoints.save(step, small(step), metrics=metrics)
        assert checkpoints.best_step() == best
        assert checkpoints.steps() == sorted({best or len(values), len(values)})
        if best is None:
            with pytest.raises(NotFoundError, match="no checkpoint has the metric 'score'"):
                checkpoints.restore(small(0), "best")


def test_a_checkpoint_that_does_not_fit_names_the_leaf(config: CheckpointConfig) -> None:
    """Shape, dtype, missing, extra: which leaf, what was expected, what came, what to do."""
    state = make_state()
    with Checkpoints(config) as checkpoints:
        checkpoints.save(1, state)
        wanted = dict(abstract(mesh_of(8), state))
        wanted["step"] = jax.ShapeDtypeStruct((), jnp.int16)
        wanted["empty"] = jax.ShapeDtypeStruct((0, 4), jnp.bfloat16)
        wanted["ema"] = {"kernel": jax.ShapeDtypeStruct((3,), jnp.float32)}
        del wanted["rest"]
        with pytest.raises(ConfigError) as caught:
            checkpoints.restore(wanted)
        message = caught.value.message
        for part in (
            "ema/kernel: expected float32[3], the checkpoint does not have it",
            "empty: expected shape bfloat16[0, 4], the checkpoint has bfloat16[0, 3]",
            "step: expected dtype int16[], the checkpoint has int32[]",
            "rest/dropout/rngs/key: not expected, the checkpoint has key<fry>[]",
            "Build the model, the optimizer and the precision as in the run that wrote it",
        ):
            assert part in message
        assert str(Path(config.folder) / "1") in message
        # The same without what it has in excess is taken on request.
        params = checkpoints.restore({"params": state["params"]}, partial=True).state
        assert bits(params) == bits({"params": state["params"]})
        with pytest.raises(ConfigError, match="opt_state/1/0/mu/layers/0/kernel: not expected"):
            checkpoints.restore({**state, "opt_state": None})


def test_a_long_list_of_faults_is_cut(config: CheckpointConfig) -> None:
    """The message stays readable; the evidence has all of them."""
    with Checkpoints(config) as checkpoints:
        checkpoints.save(1, {f"w{i}": jnp.zeros(2) for i in range(20)})
        with pytest.raises(ConfigError, match=r"; and 12 more\. Build") as caught:
            checkpoints.restore({f"w{i}": jnp.zeros(3) for i in range(20)})
    assert len(caught.value.evidence["differences"]) == 20  # type: ignore[arg-type]


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink], ids=["flip", "cut", "unlink"])
def test_damage_anywhere_is_told_and_an_older_step_is_there(
    damage: Change, config: CheckpointConfig, tmp_path: Path
) -> None:
    """One bit in any file, a byte less, a file less: it is named, and what to take instead."""
    with Checkpoints(config) as checkpoints:
        checkpoints.save(1, small(1), {"taken": 1})
        checkpoints.save(2, small(1), {"taken": 2}, {"loss": 1.0})
    folder = Path(config.folder)
    whole = shutil.copytree(folder, tmp_path / "whole")
    files = [f for f in (folder / "2").rglob("*") if f.is_file() and f.stat().st_size]
    assert len(files) > 5
    for file in files:
        if damage is Path.unlink and file.name == "checksums.json":
            continue  # as if its writer had been killed before: nothing else is wrong
        damage(file)
        with Checkpoints(config) as checkpoints:
            with pytest.raises(CorruptError) as caught:
                checkpoints.restore(small(1))
            assert "restore another step: there are 1 (discard_after(1) lets a run go on" in (
                caught.value.message
            )
            assert str(file) in caught.value.message or file.name == "checksums.json"
            assert checkpoints.restore(small(1), 1).data_state == {"taken": 1}
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)


# Orbax leaves tasks of its event loop behind when it cannot read; with one leaf there are few.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damage_is_told_without_checksums_too(config: CheckpointConfig) -> None:
    """A step whose writer was killed before it wrote them: what orbax cannot read is damaged."""
    with Checkpoints(config) as checkpoints:
        checkpoints.save(1, small(1))
    step = Path(config.folder) / "1"
    (step / "checksums.json").unlink()
    with Checkpoints(config) as checkpoints:
        assert float(checkpoints.restore(small(0)).state["w"][0]) == 1
        for file in (step / "state" / "d").iterdir():
            cut(file)
        with pytest.raises(CorruptError, match=r"cannot be read: .*the folder holds no other"):
            checkpoints.restore(small(0))
    gc.collect()


def test_what_is_half_written_is_no_checkpoint(config: CheckpointConfig) -> None:
    """A left-over of a killed writer is not taken, not removed by readers, removed by a writer."""
    with Checkpoints(config) as checkpoints:
        checkpoints.save(1, small(1))
        checkpoints.save(2, small(2))
    folder = Path(config.folder)
    half = folder / "3.orbax-checkpoint-tmp"
    shutil.copytree(folder / "2", half)
    with Checkpoints(config) as checkpoints:
        assert checkpoints.latest_step() == 2
        assert float(checkpoints.restore(small(0)).state["w"][0]) == 2
        assert half.exists()
        checkpoints.save(3, small(3))
        checkpoints.wait()
        assert not half.exists()
        assert checkpoints.steps() == [1, 2, 3]


def test_steps_ascend(config: CheckpointConfig) -> None:
    """A folder with later steps is of another run: said before anything is written."""
    with Checkpoints(config) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, small(step))
        assert not checkpoints.save(3, small(3))  # it has that one
    with Checkpoints(config) as checkpoints:
        with pytest.raises(ConfigError, match="holds step 3, and step 3 is to be saved"):
            checkpoints.save(3, small(9))
        with pytest.raises(ConfigError, match=r"drop it with discard_after\(1\)"):
            checkpoints.save(2, small(9))
        assert checkpoints.restore(small(0), 1).step == 1
        checkpoints.discard_after(1)
        assert checkpoints.steps() == [1]
        assert checkpoints.save(2, small(9))
        assert float(checkpoints.restore(small(0)).state["w"][0]) == 9


def test_what_is_not_there_is_said(config: CheckpointConfig, tmp_path: Path) -> None:
    """An empty folder, a step that is gone, a file in the way, a checkpoint of another kind."""
    with Checkpoints(config) as checkpoints:
        assert checkpoints.latest_step() is None
        with pytest.raises(NotFoundError, match="holds no checkpoint"):
            checkpoints.restore(small(0))
        checkpoints.save(4, small(4))
        with pytest.raises(NotFoundError, match="no checkpoint of step 3; it holds 4"):
            checkpoints.restore(small(0), 3)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file, checkpoints need a folder"):
        Checkpoints(CheckpointConfig(folder=tmp_path / "file"))
    ocp.save(tmp_path / "other" / "5", small(5))
    with (
        Checkpoints(CheckpointConfig(folder=tmp_path / "other")) as checkpoints,
        pytest.raises(ConfigError, match="not one of this kind"),
    ):
        checkpoints.restore(small(0))


def test_only_what_can_be_kept_is_taken(config: CheckpointConfig) -> None:
    """Leaves that are no arrays, names that occur twice, positions that JSON cannot say."""
    with Checkpoints(config) as checkpoints:
        with pytest.raises(ConfigError, match=r"leaf 'a/lr': expected a jax\.Array, got float"):
            checkpoints.save(1, {"a": {"lr": 0.1}})
        with pytest.raises(ConfigError, match="data_state: expected what JSON can say"):
            checkpoints.save(1, small(1), {"rows": {1, 2}})
        with pytest.raises(ConfigError, match=r"abstract leaf 'w': expected a jax\.Shape"):
            checkpoints.restore({"w": 3})
        over = NamedSharding(mesh_of(8).abstract_mesh, P())
        with pytest.raises(ConfigError, match="over an abstract mesh"):
            checkpoints.restore({"w": jax.ShapeDtypeStruct((4,), jnp.float32, sharding=over)})
        assert checkpoints.steps() == []


@pytest.mark.parametrize("snapshot", [True, False])
def test_a_write_that_fails_is_told(snapshot: bool, tmp_path: Path) -> None:
    """It reaches the loop with the next save, or at the end, and the older checkpoint stays."""
    with Checkpoints(CheckpointConfig(folder=tmp_path, snapshot=snapshot)) as checkpoints:
        checkpoints.save(1, small(1))
        checkpoints.wait()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
        try:
            checkpoints.save(2, {"w": jnp.ones(1 << 20)})
            with pytest.raises(StorageError, match=r"step 2 could not be written: .*the disk has"):
                checkpoints.save(3, small(3))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert checkpoints.steps() == [1]
        assert checkpoints.save(2, small(2))
        assert float(checkpoints.restore(small(0)).state["w"][0]) == 2


def test_a_write_that_fails_last_is_told_at_the_end(tmp_path: Path) -> None:
    """Nobody saves again: closing tells, with the same words."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        checkpoints = Checkpoints(CheckpointConfig(folder=tmp_path))
        checkpoints.save(1, {"w": jnp.ones(1 << 20)})
        with pytest.raises(StorageError, match="step 1 could not be written"):
            checkpoints.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_steps": 0}, "every_steps: expected 1 or more"),
        ({"keep_latest": 0}, "keep_latest: expected 1 or more"),
        ({"keep_best": -1}, "keep_best: expected 0 or more"),
        ({"mode": "least"}, "mode: expected 'min' or 'max', got 'least'"),
        ({"folder": "gs://bucket/run"}, "is a URL; mount the bucket"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """A configuration that cannot work is refused when it is made."""
    with pytest.raises(ConfigError, match=message):
        CheckpointConfig(**{"folder": tmp_path, **options})


def test_when_a_checkpoint_is_due(tmp_path: Path) -> None:
    """Every so many steps, or never by itself."""
    with Checkpoints(CheckpointConfig(folder=tmp_path, every_steps=3)) as checkpoints:
        assert [step for step in range(1, 10) if checkpoints.due(step)] == [3, 6, 9]
    with Checkpoints(CheckpointConfig(folder=tmp_path)) as checkpoints:
        assert not any(checkpoints.due(step) for step in range(1, 10))


def test_orbax_alone_can_read_it(config: CheckpointConfig) -> None:
    """The layout is orbax's own: nested names, plain arrays."""
    with Checkpoints(config) as checkpoints:
        checkpoints.save(1, {"params": {"layer": small(5)}})
    tree = ocp.load(Path(config.folder) / "1", {"params": {"layer": small(0)}})
    np.testing.assert_array_equal(tree["params"]["layer"]["w"], 5)
