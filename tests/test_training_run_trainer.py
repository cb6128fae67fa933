from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from maas_sdk.demo.digits import load_split
from maas_sdk.errors import ConfigError, InputError, MachineError, NotFoundError
from maas_sdk.models.convnet import ConvNet
from maas_sdk.training.checkpoints.manager import CheckpointConfig
from maas_sdk.training.data import Examples, Split
from maas_sdk.training.early_stopping import EarlyStopping
from maas_sdk.training.hooks import (
    EvalRecord,
    Finished,
    Record,
    Saved,
    Skipped,
    Started,
    StepRecord,
)
from maas_sdk.training.losses import cross_entropy
from maas_sdk.training.optimizer import OptimizerConfig
from maas_sdk.training.run.trainer import TrainConfig, Trainer, TrainResult

ONE = {"data": 1}


class Small(nnx.Module):
    """A model with everything that is not a parameter: batch statistics and random streams."""

    def __init__(self, rngs: nnx.Rngs, dropout: float = 0.5) -> None:
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.head(self.dropout(self.norm(images.reshape(-1, 64))))


def arrays(model: nnx.Module) -> list[np.ndarray]:
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(nnx.state(model))
    ]


def digest(model: nnx.Module) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays(model))).hexdigest()


def fit(config: TrainConfig, data: Any = None, **more: Any) -> TrainResult:
    """Train a small model, on one device: compiling for eight takes longer than these runs."""
    config = config if config.mesh or config.batch_size != 64 else replace(config, mesh=ONE)
    return Trainer(config).fit(Small(nnx.Rngs(0)), load_split() if data is None else data, **more)


def trained_digest() -> str:
    """Train for an epoch; run in this process and in a fresh one."""
    return digest(fit(TrainConfig(epochs=1, seed=5, precision="bf16")).model)


def told(records: list[Record]) -> list[str]:
    return [type(record).__name__ for record in records]


@pytest.mark.slow
def test_digits_are_learned_in_bfloat16_on_eight_devices() -> None:
    """Four epochs reach 95 % on held-out digits; the history tells of each; compiled once."""
    traces: list[None] = []
    records: list[Record] = []

    def counted(logits: jax.Array, labels: jax.Array) -> jax.Array:
        traces.append(None)
        return cross_entropy()(logits, labels)

    model = ConvNet(rngs=nnx.Rngs(0))
    before = digest(model)
    config = TrainConfig(epochs=4, precision="bf16", loss=counted)
    result = Trainer(config).fit(model, load_split(), hooks=[records.append])

    assert len(traces) == 2  # the training step and the evaluation step
    assert digest(model) == before
    assert (result.devices, result.steps, result.skipped_steps) == (8, 4 * 22, 0)
    history = tuple(record for record in records if isinstance(record, EvalRecord))
    assert history == result.history
    assert [record.epoch for record in history] == [1, 2, 3, 4]
    assert history[-1].eval["accuracy"] > 0.95
    assert history[-1].train["loss"] < history[0].train["loss"]
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(result.model))} == {
        jnp.dtype(jnp.float32)
    }
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(nnx.state(result.model))} == {1}
    # The measured accuracy is that of the model which is handed back.
    test = load_split().test
    trained: Any = result.model
    right = np.asarray(trained(test.inputs)).argmax(-1) == test.labels
    assert np.mean(right) == pytest.approx(history[-1].eval["accuracy"], abs=0.01)


_COMPILED: list[str] = []


# A listener cannot be taken away again; this one only remembers.
@jax.monitoring.register_event_duration_secs_listener
def _remember(event: str, seconds: float, **_: Any) -> None:
    if "backend_compile" in event:
        _COMPILED.append(event)


def test_a_run_of_everything_is_compiled_once(tmp_path: Path) -> None:
    """Evaluations in mid-epoch with a last batch that is not full, checkpoints, an average of the
    weights, accumulation, early stopping: still one trace of the step and one of the evaluation,
    and nothing at all that jax compiles once the first step is taken.
    """
    traces: list[None] = []
    drawn: list[int] = []
    train = load_split().train

    def batches() -> Iterator[dict[str, np.ndarray]]:
        """The second batch is drawn when the first step is behind."""
        for step in range(150):
            drawn.append(len(_COMPILED))
            rows = np.arange(step * 64, step * 64 + 64) % len(train)
            yield {"inputs": train.inputs[rows], "labels": train.labels[rows]}

    def counted(logits: jax.Array, labels: jax.Array) -> jax.Array:
        traces.append(None)
        return cross_entropy()(logits, labels)

    records: list[Record] = []
    ends: list[int] = []

    def at_the_end(record: Record) -> None:
        if isinstance(record, Finished):
            ends.append(len(_COMPILED))

    config = TrainConfig(
        steps=150,
        eval_every=13,
        loss=counted,
        early_stopping=EarlyStopping(patience=50),
        optimizer=OptimizerConfig(ema_decay=0.9, accumulate_steps=2, skip_nonfinite=2),
        checkpoint=CheckpointConfig(folder=tmp_path, every_steps=25),
    )
    test = load_split().test
    assert len(test) % 64
    result = fit(config, batches(), eval_data=test, hooks=[records.append, at_the_end])
    assert len(traces) == 2
    assert drawn[1] - drawn[0] >= 2  # both programs: the listener hears
    assert ends[0] == drawn[1]
    assert [r.step for r in result.history] == [*range(13, 150, 13), 150]
    assert [r.step for r in records if isinstance(r, Saved)] == [*range(25, 151, 25)]
    assert [r.step for r in records if isinstance(r, StepRecord)] == [*range(10, 151, 10)]
    assert (told(records)[0], told(records)[-1]) == ("Started", "Finished")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_in_another_process() -> None:
    """Bit for bit, whatever Python's own hash seed is; dropout's draws are among what is the same.

    Another seed is another order, and other weights.
    """
    here = trained_digest()
    there = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, runpy; print(runpy.run_path(sys.argv[1])['trained_digest']())",
            __file__,
        ],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    assert there.stdout.strip() == here
    assert digest(fit(TrainConfig(epochs=1, seed=6, precision="bf16")).model) != here


def test_dropout_and_batch_statistics_are_trained_with_and_judged_without() -> None:
    """The result is in eval mode with statistics of its own; the given model keeps its mode."""
    model = Small(nnx.Rngs(0))
    data = load_split()
    result = Trainer(TrainConfig(epochs=1)).fit(model, data)
    trained: Any = result.model
    rows = data.test.inputs[:8]
    np.testing.assert_array_equal(trained(rows), trained(rows))
    assert np.ptp(trained.norm.mean[...]) > 0
    assert np.ptp(model.norm.mean[...]) == 0
    assert not model.dropout.deterministic
    # Dropout drew anew at every step: its stream has been counted on.
    assert int(trained.dropout.rngs.count[...]) == 22


def test_batch_statistics_are_those_of_the_global_batch() -> None:
    """Eight devices with eight rows each end with the weights and statistics of one with 64."""
    found = []
    for mesh in ({"data": 8}, ONE):
        config = TrainConfig(steps=10, mesh=mesh)
        result = Trainer(config).fit(Small(nnx.Rngs(0), dropout=0.0), load_split())
        assert result.devices == mesh["data"]
        found.append(result.model)
    for ours, theirs in zip(*map(arrays, found), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp+tensor"])
def test_a_strategy_changes_where_and_not_what(strategy: str) -> None:
    """Weights that are cut over devices are trained to what whole ones are trained to."""
    rules = [("head/kernel", ("fsdp", None))] if strategy == "fsdp" else ()
    expected, cut = (
        Trainer(TrainConfig(steps=5, strategy=name, rules=own)).fit(
            Small(nnx.Rngs(0), dropout=0.0), load_split()
        )
        for name, own in (("data", ()), (strategy, rules))
    )
    for ours, theirs in zip(arrays(cut.model), arrays(expected.model), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_as_the_one_that_was_not(tmp_path: Path) -> None:
    """Weights bit for bit, and the history number for number; and how to insist on resuming."""
    settings: dict[str, Any] = {
        "epochs": 2,
        "log_every": 5,
        "early_stopping": EarlyStopping(metric="accuracy", mode="max", patience=9),
        "optimizer": OptimizerConfig(ema_decay=0.9, accumulate_steps=2),
    }
    whole = fit(TrainConfig(**settings))

    class Killed(Exception):
        pass

    def kill(record: Record) -> None:
        if isinstance(record, StepRecord) and record.step >= 30:
            raise Killed

    config = TrainConfig(
        **settings, checkpoint=CheckpointConfig(folder=tmp_path / "run", every_steps=8)
    )
    with pytest.raises(NotFoundError, match="holds no checkpoint to resume from"):
        fit(config, resume=True)
    with pytest.raises(Killed):
        fit(config, hooks=[kill])
    with pytest.raises(ConfigError, match="holds a run at step 24: choose an empty folder"):
        fit(config, resume=False)
    other = TrainConfig(**settings, seed=9, checkpoint=config.checkpoint)
    with pytest.raises(ConfigError, match=r"seed=0 \(now 9\)"):
        fit(other)
    records: list[Record] = []
    taken_up = fit(config, hooks=[records.append], resume=True)
    assert isinstance(records[0], Started)
    assert records[0].step == 24
    assert digest(taken_up.model) == digest(whole.model)
    assert [(r.step, r.train, r.eval) for r in taken_up.history] == [
        (r.step, r.train, r.eval) for r in whole.history
    ]
    # A run that is over is only read.
    again = fit(config)
    assert (again.steps, digest(again.model)) == (whole.steps, digest(whole.model))


def test_a_memory_error_of_ones_own_is_not_the_steps() -> None:
    """What a hook or a reader raises comes out as it is."""

    def hook(record: Record) -> None:
        if isinstance(record, StepRecord):
            raise MemoryError("of the hook")

    with pytest.raises(MemoryError, match="of the hook"):
        fit(TrainConfig(steps=12, log_every=1), broken_batches(set()), hooks=[hook])

    def reader() -> Iterator[dict[str, np.ndarray]]:
        yield from broken_batches(set(), 2)
        raise MemoryError("of the reader")

    with pytest.raises(MemoryError, match="of the reader"):
        fit(TrainConfig(steps=12), reader())


@pytest.mark.slow
def test_early_stopping_hands_out_the_best() -> None:
    """A learning rate that ruins the model ends the run, and the weights of before come back."""
    config = TrainConfig(
        epochs=30,
        optimizer=OptimizerConfig(learning_rate=0.3, schedule="constant", clip_norm=None),
        early_stopping=EarlyStopping(metric="accuracy", mode="max", patience=2),
    )
    data = load_split()
    result = fit(config, data)
    assert result.stopped_early
    assert result.steps < 30 * 22
    assert result.best.eval["accuracy"] == max(r.eval["accuracy"] for r in result.history)
    assert result.best.step < result.history[-1].step
    trained: Any = result.model
    right = np.asarray(trained(data.test.inputs)).argmax(-1) == data.test.labels
    assert np.mean(right) == pytest.approx(result.best.eval["accuracy"], abs=1e-6)
    with pytest.raises(ConfigError, match="watches 'f1'; the evaluation has accuracy, loss"):
        fit(TrainConfig(epochs=1, early_stopping=EarlyStopping(metric="f1")))
    with pytest.raises(ConfigError, match="needs held-out data"):
        fit(TrainConfig(epochs=1, early_stopping=EarlyStopping()), data.train)


def broken_batches(bad: set[int], count: int = 12) -> list[dict[str, np.ndarray]]:
    """Batches of digits, some of them with an infinite pixel."""
    train = load_split().train
    found = []
    for index in range(count):
        inputs = train.inputs[index * 64 : index * 64 + 64].copy()
        if index in bad:
            inputs[3, 0, 0, 0] = np.inf
        found.append({"inputs": inputs, "labels": train.labels[index * 64 : index * 64 + 64]})
    return found


def test_a_step_that_is_not_finite_is_skipped_counted_and_said() -> None:
    """Two such steps in a row may be, and change nothing; a third ends the run."""
    config = TrainConfig(steps=12, optimizer=OptimizerConfig(skip_nonfinite=2), mesh=ONE)
    records: list[Record] = []
    result = fit(config, broken_batches({4, 5, 8}), hooks=[records.append])
    assert result.skipped_steps == 3
    assert [r for r in records if isinstance(r, Skipped)] == [
        Skipped(step=5, count=1),
        Skipped(step=6, count=2),
        Skipped(step=9, count=3),
    ]
    assert all(np.isfinite(a).all() for a in arrays(result.model))
    assert np.isfinite(result.history[-1].train["loss"])
    with pytest.raises(InputError, match=r"step 7: loss or gradients are not finite\. It began in"):
        fit(config, broken_batches({4, 5, 6}))
    with pytest.raises(InputError, match="the batch: infinity in 'inputs'") as caught:
        fit(TrainConfig(steps=12), broken_batches({4, 9}))
    assert caught.value.evidence["step"] == 5


class Rooted(Small):
    """A model whose features are roots, of negative numbers too."""

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.head(jnp.sqrt(self.norm(images.reshape(-1, 64))))


def test_a_loss_that_turns_nan_names_the_layer() -> None:
    """The step is looked at again as it was, though the host hears of it steps later."""
    with pytest.raises(InputError) as caught:
        Trainer(TrainConfig(epochs=1)).fit(Rooted(nnx.Rngs(0)), load_split())
    assert caught.value.evidence["step"] == 1
    assert "what goes into layer head (Linear): it has NaN" in str(caught.value)
    assert "skip_nonfinite=3 in the optimizer" in str(caught.value)


def test_labels_are_checked_before_the_first_step() -> None:
    """Against the width of the model's output, in memory or batch by batch, of both parts."""
    data = load_split()
    wrong = data.train.labels.copy()
    wrong[[7, 9]] = 10, -1
    records: list[Record] = []
    with pytest.raises(InputError, match=r"training labels: expected 0 to 9.* row 7 has 10 \(2 of"):
        fit(TrainConfig(), Examples(inputs=data.train.inputs, labels=wrong), hooks=[records.append])
    held_out = Examples(inputs=data.test.inputs, labels=data.test.labels + 1)
    with pytest.raises(InputError, match="held-out labels: expected 0 to 9"):
        fit(TrainConfig(), Split(train=data.train, test=held_out), hooks=[records.append])
    assert records == []
    batches = broken_batches(set(), 4)
    batches[2]["labels"] = batches[2]["labels"] + 5
    with pytest.raises(InputError, match="labels: expected 0 to 9"):
        fit(TrainConfig(steps=4), batches)
    with pytest.raises(
        InputError, match=r"expected labels that are integers, .* got float32; .* loss='mse'"
    ):
        fit(TrainConfig(steps=1), [{**batches[0], "labels": batches[0]["labels"] / 2}])


def test_data_that_ends_or_changes_is_told() -> None:
    """How far it came and what was expected; nothing is compiled again for another shape."""
    batches = broken_batches(set(), 5)
    with pytest.raises(InputError, match="training data ended after 5 of 9 steps"):
        fit(TrainConfig(steps=9), batches)
    batches[3] = {name: array[:32] for name, array in batches[3].items()}
    with pytest.raises(
        InputError, match=r"batch 4: expected a batch like the first one, inputs float32\[64.*\[32"
    ):
        fit(TrainConfig(steps=5), batches)
    with pytest.raises(ConfigError, match=r"batch_size is 32, but the first batch is inputs.*\[64"):
        fit(TrainConfig(steps=5, batch_size=32, mesh=ONE), batches)
    with pytest.raises(InputError, match="has no batch, and 5 steps are to be taken"):
        fit(TrainConfig(steps=5), [])
    with pytest.raises(ConfigError, match="does not say how long an epoch is: give steps="):
        fit(TrainConfig(epochs=2), iter(batches))


def test_a_batch_must_fit_mesh_and_data() -> None:
    """Both misfits are refused before anything is compiled, with the number that would fit."""
    with pytest.raises(ConfigError, match="cannot be cut evenly over 8 devices"):
        fit(TrainConfig(batch_size=60))
    with pytest.raises(ConfigError, match="more than the 1438 training examples"):
        fit(TrainConfig(batch_size=4096))
    with pytest.raises(ConfigError, match="unknown strategy 'magic'"):
        fit(TrainConfig(strategy="magic"))
    with pytest.raises(ConfigError, match="a linen module comes with its variables"):
        Trainer(TrainConfig()).fit(linen.Dense(10), load_split())  # type: ignore[arg-type]


class Hungry(nnx.Module):
    """A model with an activation of eight terabytes for each row."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.reshape(-1, 64)
        huge = jnp.sin(x[:, :1, None, None] + jnp.ones((1, 2**20, 2**21 // 64, 64)))
        return self.head(x) + jnp.sort(huge, axis=1).sum((1, 2, 3))[:, None]


def test_out_of_memory_is_told_by_kind_with_what_would_fit() -> None:
    """XLA's refusal comes back with weights, optimizer, batch and the rest, and a remedy."""
    with pytest.raises(MachineError) as caught:
        Trainer(TrainConfig(steps=1, mesh=ONE)).fit(Hungry(nnx.Rngs(0)), load_split())
    said = str(caught.value)
    assert "out of memory: a step of 64 rows needs" in said
    assert "weights 2.60 kB, optimizer 5.21 kB" in said
    assert "not even one row a device would fit" in said
    assert "Out of memory allocating" in said


@pytest.mark.parametrize("field", ["epochs", "steps", "batch_size", "eval_every", "log_every"])
def test_counts_are_positive(field: str) -> None:
    """Zero epochs or rows is a mistake, and is said to be one."""
    with pytest.raises(ConfigError, match=f"{field}: expected 1 or more, got 0"):
        TrainConfig(**{field: 0})


def test_settings_that_contradict_each_other_are_refused() -> None:
    """Before anything is loaded."""
    with pytest.raises(ConfigError, match="epochs=2 and steps=3 are both given"):
        TrainConfig(epochs=2, steps=3)
    with pytest.raises(ConfigError, match="unknown name 'entropy'; known are cross_entropy"):
        TrainConfig(loss="entropy")
    with pytest.raises(ConfigError, match=r"label_smoothing 0.1 is for cross_entropy"):
        TrainConfig(loss="mse", label_smoothing=0.1)
    with pytest.raises(ConfigError, match="bf17"):
        TrainConfig(precision="bf17")


def test_batches_that_are_placed_ahead_are_the_same() -> None:
    """A thread that prefetches changes nothing that can be seen; its place is saved right."""
    plain = fit(TrainConfig(steps=30))
    assert digest(fit(TrainConfig(steps=30, prefetch=2)).model) == digest(plain.model)


def test_an_objective_of_ones_own(tmp_path: Path) -> None:
    """What is made small, and what is reported, may be any function of model and batch."""
    from maas_sdk.training.step import Metrics, mean_of

    def autoencode(model: Any, batch: Any) -> tuple[jax.Array, Metrics]:
        x = jnp.asarray(batch["inputs"]).reshape(-1, 64)
        errors = jnp.square(model(x) - x)
        loss = mean_of(errors.mean(axis=1), batch.get("weights"))
        return loss.value, {"loss": loss, "largest": mean_of(errors.max(axis=1))}

    model = nnx.Sequential(nnx.Linear(64, 8, rngs=nnx.Rngs(0)), nnx.Linear(8, 64, rngs=nnx.Rngs(1)))
    records: list[Record] = []
    result = Trainer(TrainConfig(epochs=4)).fit(
        model, load_split(), objective=autoencode, hooks=[records.append]
    )
    first, last = result.history[0].eval, result.history[-1].eval
    assert set(last) == {"loss", "largest"}
    assert last["loss"] < first["loss"]
    assert isinstance(records[-1], Finished)
