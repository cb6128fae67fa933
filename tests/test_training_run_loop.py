from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from maas_sdk.demo.digits import load_split
from maas_sdk.training.hooks import Record, StepRecord
from maas_sdk.training.metrics import LAG
from maas_sdk.training.run.compiled_steps import EvalProgram, TrainProgram
from maas_sdk.training.run.config import TrainConfig
from maas_sdk.training.run.loop import Loop, RunLength
from maas_sdk.training.run.setup import set_up_run


class Running:
    """Metrics of a step that the device is still at; says when somebody waits for them."""

    def __init__(self, what: str, log: list[str]) -> None:
        self.what, self._log = what, log

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        self._log.append(self.what)
        return np.ones((2, 2), np.float32) * [[1, 0]]


def loop(log: list[str], steps: int, eval_every: int, held_out: int, **more: Any) -> Loop:
    """A loop over programs that compute nothing and write down when they are called."""

    def train(leaves: Any, batch: Any) -> Any:
        log.append(f"start {batch}")
        return leaves, Running(f"wait {batch}", log)

    def evaluate(leaves: Any, batch: Any) -> Any:
        return Running(f"wait held-out {batch}", log)

    names = ("loss", "nonfinite")
    return Loop(
        leaves=(),
        train=TrainProgram(run=train, names=names, compiled=None, batch={}),  # type: ignore[arg-type]
        evaluate=EvalProgram(run=evaluate, names=names),  # type: ignore[arg-type]
        eval_batches=lambda: range(held_out),
        length=RunLength(
            steps=steps, eval_every=eval_every, log_every=1, batch_size=4, steps_per_epoch=None
        ),
        early_stopping=None,
        checkpoints=None,
        skip_nonfinite=0,
        nonfinite_error=lambda step, leaves, batch: AssertionError(step),
        **{"hooks": (), **more},
    )


def test_the_host_waits_for_no_step_that_it_has_just_started() -> None:
    """Whatever is waited for was started LAG steps ago, evaluations too; all is told in the end."""
    log: list[str] = []
    records: list[Record] = []
    run = loop(log, steps=20, eval_every=5, held_out=3, hooks=[records.append])
    run.run(iter(range(1, 100)))
    latest = 0
    for line in log[: log.index("start 20")]:
        word, *_, number = line.split()
        if word == "start":
            latest = int(number)
        elif "held-out" not in line:
            assert int(number) <= latest - LAG, line
    assert [r.step for r in records if isinstance(r, StepRecord)] == list(range(1, 21))
    # The evaluation at step 5 is read together with that step's own news.
    assert log.index("wait held-out 0") > log.index("start 9")
    assert [r.step for r in run.history] == [5, 10, 15, 20]


def test_a_long_evaluation_does_not_fill_the_device() -> None:
    """No more than LAG of its batches are under way at a time."""
    log: list[str] = []
    run = loop(log, steps=1, eval_every=1, held_out=50)
    run.run(iter([1]))
    assert [line for line in log if "held-out" in line] == [f"wait held-out {n}" for n in range(50)]
    assert run.history[0].eval == {"loss": 1.0}


def test_what_a_hook_raises_ends_the_run() -> None:
    """Hooks are plain functions; the loop has nothing to say about their errors."""

    def hook(record: Record) -> None:
        if record.step == 7:  # type: ignore[union-attr]
            raise KeyError("seven")

    log: list[str] = []
    with pytest.raises(KeyError, match="seven"):
        loop(log, steps=20, eval_every=20, held_out=0, hooks=[hook]).run(iter(range(1, 99)))
    assert log[-2:] == ["start 11", "wait 7"]


def test_the_program_takes_the_state_and_gives_it_back() -> None:
    """Buffers are donated: the given state is gone after a step, and no step is compiled twice."""
    data = load_split().train
    model = nnx.Linear(64, 10, rngs=nnx.Rngs(0))
    config = TrainConfig(steps=3)

    class Flat(nnx.Module):
        def __init__(self) -> None:
            self.inner = model

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.inner(x.reshape(len(x), -1))

    run = set_up_run(config, Flat(), data)
    leaves = jax.tree.leaves(run.state)
    new, packed = run.train.run(leaves, run.first)
    assert all(leaf.is_deleted() for leaf in leaves)
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(leaves[1])
    assert [leaf.sharding for leaf in new] == [leaf.sharding for leaf in leaves]
    assert run.train.names == ("accuracy", "grad_norm", "learning_rate", "loss", "nonfinite")
    assert packed.shape == (2, 5)
    # The caller's module keeps its arrays.
    assert jnp.isfinite(model.kernel[...]).all()
    with pytest.raises((TypeError, ValueError)):
        run.train.run(new, {name: array[:8] for name, array in run.first.items()})
