"""The training loop: a model, a split and a configuration in, a trained model and its history out.

The rule it keeps: the same model, data and configuration give the same weights, bit for bit, in
any process on the same kind of machine and mesh; and one run compiles its step once, however long
it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from maas_sdk.errors import ConfigError
from maas_sdk.sharding.data_parallel import check_batch_size, mesh_for, place_batch, replicate
from maas_sdk.tensors import Array
from maas_sdk.training.data import Examples, Split, epoch_batches
from maas_sdk.training.optimizer import OptimizerConfig, make_optimizer
from maas_sdk.training.precision import Policy
from maas_sdk.training.step import (
    EvalStep,
    LossFn,
    Metrics,
    TrainState,
    TrainStep,
    cross_entropy,
    make_eval_step,
    make_train_step,
    take_apart,
)

__all__ = ["EpochRecord", "TrainConfig", "TrainResult", "train"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How to train."""

    # Passes over the training examples.
    epochs: int = 15
    # Rows per step over all devices together; a multiple of the mesh's ``data`` axis.
    batch_size: int = 64
    # Decides the order of the examples. The model's initial weights have their own seed.
    seed: int = 0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    precision: Policy = field(default_factory=Policy)
    # Share of each target that is spread over all classes; see ``step.cross_entropy``.
    label_smoothing: float = 0.05
    # A name out of ``sharding.data_parallel.STRATEGIES``; unused when ``train`` is given a mesh.
    strategy: str = "data_parallel"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected 1 or more, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRecord:
    """What one epoch gave."""

    # 1 for the first.
    epoch: int
    # Means over the rows of the epoch, each measured before its batch's update.
    train_loss: float
    train_accuracy: float
    # Means over the held-out rows, after the epoch.
    test_loss: float
    test_accuracy: float
    # Wall time; the first epoch's holds the compilation.
    wall_s: float

    def to_dict(self) -> dict[str, float]:
        """The record as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """A trained model, and how it came about."""

    # A module of the given one's kind with the trained master weights, on one device, in eval mode.
    model: nnx.Module
    history: tuple[EpochRecord, ...]
    # Devices that shared each batch.
    devices: int
    steps: int
    wall_s: float


def train(
    model: nnx.Module,
    data: Split,
    config: TrainConfig,
    *,
    mesh: Mesh | None = None,
    loss_fn: LossFn | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
) -> TrainResult:
    """Train ``model``, which is left as it was, and return the trained copy.

    Args:
        model: maps inputs ``[B, …]`` to logits ``[B, K]``.
        data: what to learn from, and what to measure every epoch by.
        config: how to train.
        mesh: devices to share each batch over; None takes all, as ``config.strategy`` says.
        loss_fn: (outputs, labels) → loss of each row; None is cross-entropy, with
            ``config.label_smoothing``.
        progress: called after every epoch.

    Raises:
        ConfigError: the batch size does not fit the mesh or the data, or an unknown strategy.
    """
    started = time.perf_counter()
    mesh = mesh_for(config.strategy) if mesh is None else mesh
    check_batch_size(mesh, config.batch_size)
    if config.batch_size > len(data.train):
        raise ConfigError(
            f"batch_size {config.batch_size} is more than the {len(data.train)} training examples"
        )
    if loss_fn is None:
        loss_fn = cross_entropy(label_smoothing=config.label_smoothing)
    steps = config.epochs * (len(data.train) // config.batch_size)
    optimizer = make_optimizer(config.optimizer, steps=steps)
    # A second module over the same arrays, so that modes can be set without the caller noticing.
    own: Any = nnx.merge(*nnx.split(model), copy=True)
    own.eval()
    eval_step = make_eval_step(nnx.split(own)[0], config.precision, loss_fn)
    own.train()
    graphdef, state = take_apart(own, optimizer, config.precision)
    train_step = make_train_step(graphdef, optimizer, config.precision, loss_fn)
    state = replicate(mesh, state)

    history: list[EpochRecord] = []
    for epoch in range(1, config.epochs + 1):
        epoch_started = time.perf_counter()
        state, (train_loss, train_accuracy) = _learn(
            train_step, state, data.train, config, epoch, mesh
        )
        test_loss, test_accuracy = _evaluate(eval_step, state, data.test, config.batch_size, mesh)
        record = EpochRecord(
            epoch=epoch,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            wall_s=time.perf_counter() - epoch_started,
        )
        history.append(record)
        if progress is not None:
            progress(record)

    return TrainResult(
        model=_put_together(graphdef, state),
        history=tuple(history),
        devices=mesh.size,
        steps=steps,
        wall_s=time.perf_counter() - started,
    )


def _learn(
    train_step: TrainStep,
    state: TrainState,
    examples: Examples,
    config: TrainConfig,
    epoch: int,
    mesh: Mesh,
) -> tuple[TrainState, tuple[float, float]]:
    """One pass over ``examples``: the state after it, mean loss and accuracy."""
    sums: list[Metrics] = []
    rows = 0
    for batch in epoch_batches(
        len(examples), batch_size=config.batch_size, seed=config.seed, epoch=epoch
    ):
        inputs, labels = place_batch(mesh, (examples.inputs[batch], examples.labels[batch]))
        state, metrics = train_step(state, inputs, labels)
        sums.append(metrics)
        rows += len(batch)
    return state, _means(sums, rows)


def _put_together(graphdef: nnx.GraphDef[Any], state: TrainState) -> nnx.Module:
    """The trained module, its arrays gathered from the mesh onto the first device."""
    params, rest = jax.device_put((state.params, state.rest), jax.local_devices()[0])
    model: Any = nnx.merge(graphdef, params, rest)
    model.eval()
    trained: nnx.Module = model
    return trained


def _evaluate(
    eval_step: EvalStep, state: TrainState, examples: Examples, batch_size: int, mesh: Mesh
) -> tuple[float, float]:
    """Mean loss and accuracy over all of ``examples``."""
    sums = [eval_step(state, *place_batch(mesh, batch)) for batch in _padded(examples, batch_size)]
    return _means(sums, len(examples))


def _padded(examples: Examples, batch_size: int) -> Iterator[tuple[Array, Array, Array]]:
    """All examples in batches of one size, the last filled up with its first row."""
    for start in range(0, len(examples), batch_size):
        rows = np.arange(start, start + batch_size)
        real = rows < len(examples)
        batch = examples.take(np.where(real, rows, start))
        yield batch.inputs, batch.labels, real


def _means(sums: list[Metrics], rows: int) -> tuple[float, float]:
    """Mean loss and accuracy; the first wait for the devices in an epoch."""
    fetched = jax.device_get(sums)
    return (
        float(sum(float(one.loss_sum) for one in fetched) / rows),
        float(sum(int(one.correct) for one in fetched) / rows),
    )
