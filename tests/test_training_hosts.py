"""``Trainer.fit`` in several real processes: as in one, kill and resumption included."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas_sdk.distributed.launcher import launch
from maas_sdk.errors import ModelError

# Digits, 4 devices in all. Arguments: folder, strategy, the step after which process 1 is killed.
PROGRAM = '''
import json, os, signal, sys
from pathlib import Path
import jax, numpy as np
from flax import nnx
from sklearn.datasets import load_digits
from maas_sdk.distributed.hosts import join
from maas_sdk.training.checkpoints.manager import CheckpointConfig
from maas_sdk.training.data import Examples
from maas_sdk.training.hooks import Started, StepRecord
from maas_sdk.training.optimizer import OptimizerConfig
from maas_sdk.training.run.trainer import TrainConfig, Trainer

folder, strategy, kill_at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])


class Noted(Examples):
    """Examples that note which rows are asked for."""

    def read(self, rows):
        asked.update(np.asarray(rows).tolist())
        return Examples.read(self, rows)


class Network(nnx.Module):
    def __init__(self, rngs):
        # No bias: BatchNorm takes it away again, and Adam would make steps of its rounding errors.
        self.up = nnx.Linear(64, 32, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(32, momentum=0.8, rngs=rngs)
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.up(x))))


def noted(record):
    match record:
        case Started(step=step):
            print("started at step", step, flush=True)
        case StepRecord(step=step):
            if here.index == 1 and step >= kill_at and not (folder / "killed").exists():
                (folder / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)


asked = set()
with join() as here:
    digits = load_digits()
    images = (digits.data / 16).astype(np.float32)
    labels = digits.target.astype(np.int32)
    train = Noted(inputs=images[:1500], labels=labels[:1500])
    test = Examples(inputs=images[1500:], labels=labels[1500:])
    config = TrainConfig(
        steps=20, batch_size=64, eval_every=10, log_every=1,
        strategy=strategy, mesh={strategy: 4},
        optimizer=OptimizerConfig(learning_rate=0.02), prefetch=2, progress=False,
        log_folder=folder / "logs",
        checkpoint=CheckpointConfig(
            folder=folder / "checkpoints", every_steps=6, asynchronous="--async" in sys.argv
        ),
    )
    result = Trainer(config).fit(Network(nnx.Rngs(0)), train, test, hooks=[noted])
    state = nnx.to_pure_dict(nnx.state(result.model))
    leaves = {jax.tree_util.keystr(path): np.asarray(leaf).tolist()
              for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    history = [record.eval for record in result.history]
    found = {"weights": leaves, "history": history, "read": sorted(asked), "steps": result.steps}
    (folder / f"result-{here.index}.json").write_text(json.dumps(found))
'''


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program as a script."""
    script = tmp_path_factory.mktemp("trainer") / "train_digits.py"
    script.write_text(PROGRAM)
    return script


def train(
    program: Path,
    folder: Path,
    processes: int,
    *,
    strategy: str = "data",
    kill_at: int = 10**6,
    restarts: int = 0,
    options: tuple[str, ...] = (),
) -> tuple[list[Any], tuple[str, ...]]:
    """Results and outputs of all processes, 4 devices in all."""
    folder.mkdir(exist_ok=True)
    arguments = [str(folder), strategy, str(kill_at), *options]
    if processes == 1:
        # This process will do, on four of its devices.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [str(program), *arguments])
            runpy.run_path(str(program))
        return [json.loads((folder / "result-0.json").read_text())], ("",)
    done = launch(
        program,
        *arguments,
        processes=processes,
        devices_per_process=4 // processes,
        timeout_s=500,
        restarts=restarts,
    )
    results = [json.loads((folder / f"result-{i}.json").read_text()) for i in range(processes)]
    return results, done.outputs


def check_close(found: Any, expected: Any) -> None:
    assert found["steps"] == expected["steps"] == 20
    assert found["weights"].keys() == expected["weights"].keys()
    for name, leaf in expected["weights"].items():
        np.testing.assert_allclose(found["weights"][name], leaf, rtol=1e-4, atol=1e-5, err_msg=name)
    for a, b in zip(found["history"], expected["history"], strict=True):
        np.testing.assert_allclose([*a.values()], [*b.values()], rtol=1e-4, atol=1e-6)


def check_run(program: Path, tmp_path: Path, processes: int, strategy: str, *options: str) -> None:
    """One process undisturbed, several with one of them killed and all started again."""
    [expected], _ = train(program, tmp_path / "one", 1, strategy=strategy)
    assert expected["history"][-1]["accuracy"] > 0.7
    folder = tmp_path / "many"
    with pytest.raises(ModelError, match=f"process 1 of {processes} was killed by SIGKILL") as e:
        train(program, folder, processes, strategy=strategy, kill_at=15, options=options)
    for i, output in enumerate(e.value.evidence["outputs"]):
        if i != 1:
            assert f"process 1 of {processes} is gone" in output
    results, outputs = train(program, folder, processes, strategy=strategy, options=options)
    for result, output in zip(results, outputs, strict=True):
        assert "started at step 12" in output
        check_close(result, expected)
        # Every process has the whole model, the same.
        assert result["weights"] == results[0]["weights"]
    # The first process alone writes the log: what one process says of the last step, once.
    assert lines_of(folder, step=20) == lines_of(tmp_path / "one", step=20) > 0
    # Less than an epoch: each process reads rows of its own, together no others than one process.
    parts = [set(result["read"]) for result in results]
    assert not set.intersection(*parts)
    assert set.union(*parts) <= set(expected["read"])


def lines_of(folder: Path, step: int) -> int:
    text = (folder / "logs" / "metrics.jsonl").read_text()
    return sum(json.loads(line).get("step") == step for line in text.splitlines())


@pytest.mark.slow
def test_two_processes_train_as_one_also_when_one_is_killed(program: Path, tmp_path: Path) -> None:
    """Killed at step 15 of 20, resumed at 12: weights and evaluations of one process, to 1e-4.

    Batch statistics are over both processes; each reads rows of its own; one writes the log.
    """
    check_run(program, tmp_path, 2, "data")


@pytest.mark.heavy
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("strategy", ["data", "fsdp"])
def test_more_processes_and_sharded_state(
    program: Path, tmp_path: Path, processes: int, strategy: str
) -> None:
    """The same with four, with weights cut over processes, and asynchronous checkpoints."""
    check_run(program, tmp_path, processes, strategy, *(["--async"] if strategy == "fsdp" else []))


@pytest.mark.heavy
def test_a_killed_run_ends_bit_for_bit_as_an_undisturbed_one(program: Path, tmp_path: Path) -> None:
    """Two processes, with and without a kill and a restart: the very same weights."""
    undisturbed, _ = train(program, tmp_path / "calm", 2)
    killed, outputs = train(program, tmp_path / "killed", 2, kill_at=15, restarts=1)
    assert all("started at step 12" in output for output in outputs)
    assert [r["weights"] for r in killed] == [r["weights"] for r in undisturbed]


# Stages over all devices, so that activations cross from one process to the other.
STAGES = """
import json, sys
from pathlib import Path
import numpy as np
from flax import nnx
from sklearn.datasets import load_digits
from maas_sdk.distributed.hosts import join
from maas_sdk.sharding.mesh import make_mesh
from maas_sdk.sharding.pipeline import Pipelined
from maas_sdk.training.data import Examples
from maas_sdk.training.run.trainer import TrainConfig, Trainer


class Block(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(64, 64, rngs=rngs)

    def __call__(self, x):
        return x + nnx.gelu(self.up(x))


class Network(nnx.Module):
    def __init__(self, mesh, rngs):
        self.layers = Pipelined([Block(rngs) for _ in range(4)], mesh=mesh, microbatches=4)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(self.layers(x))


with join() as here:
    digits = load_digits()
    data = Examples(
        inputs=(digits.data / 16).astype(np.float32), labels=digits.target.astype(np.int32)
    )
    config = TrainConfig(
        steps=12, batch_size=64, eval_every=6, mesh={"stage": 4}, progress=False,
        rules=[("layers/blocks/", ("stage",))],
    )
    model = Network(make_mesh({"stage": 4}), nnx.Rngs(0))
    history = Trainer(config).fit(model, data, data).history
    found = [record.eval["loss"] for record in history]
    (Path(sys.argv[1]) / f"losses-{here.count}-{here.index}.json").write_text(json.dumps(found))
"""


@pytest.mark.heavy
def test_a_pipelines_stages_may_lie_in_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stages in each of two processes: the losses of four in one."""
    script = tmp_path / "stages.py"
    script.write_text(STAGES)
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path)])
    runpy.run_path(str(script))
    launch(script, str(tmp_path), processes=2, devices_per_process=2, timeout_s=500)
    one, *both = [
        json.loads((tmp_path / f"losses-{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")
    ]
    assert one[-1] < 0.9 * one[0]
    for losses in both:
        np.testing.assert_allclose(losses, one, rtol=1e-5)
