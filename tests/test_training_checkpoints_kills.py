"""Training processes killed at random moments, restarted until they are done.

The processes are real, and have everything that a resumed run can get wrong: dropout, whose random
stream moves on; batch statistics; Adam's moments and its step; data in an order of each epoch; and
with the trainer the metrics that are being added up, and the best weights so far.
"""

from __future__ import annotations

import hashlib
import importlib.util
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

EVERY = 3
BATCH = 32


def iris() -> tuple[Any, Any]:
    """Scikit-learn's own file, without the second that importing it takes."""
    [package] = importlib.util.find_spec("sklearn").submodule_search_locations
    table = np.loadtxt(Path(package) / "datasets/data/iris.csv", delimiter=",", skiprows=1)
    return table[:, :4].astype(np.float32), table[:, 4].astype(np.int32)


def make_net() -> Any:
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.hidden = nnx.Linear(4, 16, rngs=rngs)
            self.norm = nnx.BatchNorm(16, rngs=rngs)
            self.dropout = nnx.Dropout(0.3, rngs=rngs)
            self.head = nnx.Linear(16, 3, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.head(self.dropout(nnx.relu(self.norm(self.hidden(x)))))

    return Net(nnx.Rngs(0))


def digest(tree: Any) -> str:
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        found.update(np.asarray(jax.random.key_data(leaf) if key else leaf).tobytes())
    return found.hexdigest()


def trainer(folder: str, end: int) -> str:
    """One kind of process: ``Trainer.fit``, saving every third step, telling each."""
    from flax import nnx

    from maas_sdk.training.checkpoints.manager import CheckpointConfig
    from maas_sdk.training.data import Examples, stratified_split
    from maas_sdk.training.early_stopping import EarlyStopping
    from maas_sdk.training.hooks import StepRecord
    from maas_sdk.training.run.trainer import TrainConfig, Trainer

    def tell(record: Any) -> None:
        if isinstance(record, StepRecord):
            print(record.step, flush=True)

    inputs, labels = iris()
    data = stratified_split(Examples(inputs=inputs, labels=labels), test_fraction=0.2, seed=0)
    config = TrainConfig(
        steps=end,
        batch_size=BATCH,
        log_every=1,
        eval_every=7,
        progress=False,
        early_stopping=EarlyStopping(patience=100),
        checkpoint=CheckpointConfig(folder=folder, every_steps=EVERY, keep_latest=2, keep_best=1),
    )
    result = Trainer(config).fit(make_net(), data, hooks=[tell])
    history = [(record.step, dict(record.train), dict(record.eval)) for record in result.history]
    for record in history:
        for found in record[1:]:
            found.pop("wall_s", None)
    return digest((nnx.state(result.model), np.frombuffer(repr(history).encode(), np.uint8)))


def loop(folder: str, end: int) -> str:
    """Another: a loop written by hand, from copies of its state that are made at each save."""
    import optax
    from flax import nnx

    from maas_sdk.training.checkpoints.manager import CheckpointConfig, Checkpoints
    from maas_sdk.training.data import epoch_batches

    optimizer = optax.adam(1e-2)
    graph, params, rest = nnx.split(make_net(), nnx.Param, ...)
    state: Any = (params, rest, optimizer.init(params))
    inputs, labels = iris()

    def step(state: Any, x: jax.Array, y: jax.Array) -> Any:
        params, rest, opt_state = state

        def loss(params: Any) -> Any:
            model = nnx.merge(graph, params, rest, copy=True)
            losses = optax.losses.softmax_cross_entropy_with_integer_labels(model(x), y)
            return losses.mean(), nnx.state(model, nnx.Not(nnx.Param))

        gradients, rest = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), rest, opt_state

    step = jax.jit(step, donate_argnums=0)
    config = CheckpointConfig(folder=folder, every_steps=EVERY, keep_latest=2, snapshot=True)
    with Checkpoints(config) as checkpoints:
        taken = 0
        if checkpoints.latest_step() is not None:
            state, position, taken = checkpoints.restore(state)
            assert position == {"batches": taken}
        per_epoch = len(labels) // BATCH
        while taken < end:
            order = epoch_batches(len(labels), batch_size=BATCH, seed=1, epoch=taken // per_epoch)
            rows = list(order)[taken % per_epoch]
            state = step(state, inputs[rows], labels[rows])
            taken += 1
            if checkpoints.due(taken):
                checkpoints.save(taken, state, {"batches": taken}, {"loss": 1.0 / taken})
            print(taken, flush=True)
    return digest(state)


KINDS = {"trainer": trainer, "loop": loop}


def start(kind: str, folder: Path, end: int) -> subprocess.Popen[str]:
    code = "import runpy, sys; f, k, *a = sys.argv[1:]; runpy.run_path(f)[k](a[0], int(a[1]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, __file__, kind, str(folder), str(end)],
        stdout=subprocess.PIPE,
        text=True,
    )


def kill_after(process: subprocess.Popen[str], steps: int, delay_s: float) -> int:
    """Let it take so many steps and a moment more, kill it; the last step that it told of."""
    assert process.stdout is not None
    told = 0
    for line in process.stdout:
        told = int(line.split()[0])
        steps -= 1
        if not steps:
            break
    time.sleep(delay_s)
    process.kill()
    assert process.wait() == -9
    process.stdout.close()
    return told


def survive(kind: str, folder: Path, *, end: int, kills: int, seed: int) -> None:
    """Kill a run so often, at moments of ``seed``; its end is that of one that was left alone."""
    # First and last in this process, which saves their starts; those that are killed are others.
    undisturbed = KINDS[kind](str(folder / "undisturbed"), end)
    moments = random.Random(seed)
    told = []
    for _ in range(kills):
        # Saving takes tens of milliseconds and three steps less: many a kill hits a save.
        steps, delay_s = moments.randint(1, 8), moments.uniform(0.0, 0.05)
        told.append(kill_after(start(kind, folder / "killed", end), steps, delay_s))
        if told[-1] > end - 12:
            break  # near its end it could be done before it is killed
    assert KINDS[kind](str(folder / "killed"), end) == undisturbed
    print(f"killed after steps {told}")
    assert len(told) == kills


@pytest.mark.slow
def test_three_kills_leave_the_same_weights(tmp_path: Path) -> None:
    """The trainer's final weights, statistics and history are those of an undisturbed run."""
    survive("trainer", tmp_path, end=48, kills=3, seed=0)


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["trainer", "loop"])
def test_twenty_kills_leave_the_same_weights(kind: str, tmp_path: Path) -> None:
    """The same with twenty kills, and for a loop written by hand."""
    survive(kind, tmp_path, end=150, kills=20, seed=1)
