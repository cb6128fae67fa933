"""Training processes killed at random moments, restarted until they are done.

The process is real, and has everything that a resumed run can get wrong: dropout, whose random
stream moves on; batch statistics; Adam's moments and its step; data in an order of each epoch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

STEPS = 60
EVERY = 3
BATCH = 32


def learn(folder: str) -> None:
    """The process: train, say each step, save every third, end with the weights' hash."""
    import optax
    from flax import nnx

    from maas_sdk.training.checkpoint import CheckpointConfig, Checkpoints
    from maas_sdk.training.data import epoch_batches

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.hidden = nnx.Linear(4, 16, rngs=rngs)
            self.norm = nnx.BatchNorm(16, rngs=rngs)
            self.dropout = nnx.Dropout(0.3, rngs=rngs)
            self.head = nnx.Linear(16, 3, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.head(self.dropout(nnx.relu(self.norm(self.hidden(x)))))

    optimizer = optax.adam(1e-2)
    graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
    state: Any = (params, rest, optimizer.init(params))
    # Scikit-learn's own file, without the second that importing it takes.
    [package] = importlib.util.find_spec("sklearn").submodule_search_locations
    table = np.loadtxt(Path(package) / "datasets/data/iris.csv", delimiter=",", skiprows=1)
    inputs, labels = table[:, :4].astype(np.float32), table[:, 4].astype(np.int32)

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
        while taken < STEPS:
            order = epoch_batches(len(labels), batch_size=BATCH, seed=1, epoch=taken // per_epoch)
            rows = list(order)[taken % per_epoch]
            state = step(state, inputs[rows], labels[rows])
            taken += 1
            if checkpoints.due(taken):
                checkpoints.save(taken, state, {"batches": taken}, {"loss": 1.0 / taken})
            print(taken, flush=True)
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        found.update(np.asarray(jax.random.key_data(leaf) if key else leaf).tobytes())
    print("weights", found.hexdigest(), flush=True)


def start(folder: Path) -> subprocess.Popen[str]:
    code = "import sys, runpy; runpy.run_path(sys.argv[1])['learn'](sys.argv[2])"
    return subprocess.Popen(
        [sys.executable, "-c", code, __file__, str(folder)],
        env={**os.environ, "XLA_FLAGS": ""},
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """The hash of the weights of a process that is let run."""
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    word, digest = out.split()[-2:]
    assert word == "weights"
    return digest


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


def survive(folder: Path, kills: int, seed: int) -> None:
    """Kill a run so often, at moments of ``seed``; its end is that of one that was left alone."""
    undisturbed = finish(start(folder / "undisturbed"))
    moments = random.Random(seed)
    told = []
    for _ in range(kills):
        # Saving takes tens of milliseconds and three steps less: many a kill hits a save.
        steps, delay_s = moments.randint(1, 8), moments.uniform(0.0, 0.05)
        told.append(kill_after(start(folder / "killed"), steps, delay_s))
    assert finish(start(folder / "killed")) == undisturbed
    print(f"killed after steps {told}")
    assert max(told) < STEPS


def test_three_kills_leave_the_same_weights(tmp_path: Path) -> None:
    """Final weights, statistics, moments and random streams are those of an undisturbed run."""
    survive(tmp_path, kills=3, seed=0)


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_twenty_kills_leave_the_same_weights(tmp_path: Path) -> None:
    """The same with twenty."""
    survive(tmp_path, kills=20, seed=1)
