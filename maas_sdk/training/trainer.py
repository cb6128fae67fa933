"""Train any Flax model: a frozen configuration and data in, a trained model and its history out.

    result = Trainer(TrainConfig(epochs=5, precision="bf16")).fit(model, split)

The rule it keeps: the same model, data and configuration give the same weights, bit for bit, in
any process on the same kind of machine and mesh, however often the run was stopped and taken up.
Everything that happens in between is a function of its own that can be used alone: the step
(``training.step``), the feed, the programs, the loop; ``fit`` puts them together.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from maas_sdk.errors import ConfigError
from maas_sdk.sharding.data_parallel import check_batch_size, mesh_for, place_batch, replicate
from maas_sdk.training.data import Split
from maas_sdk.training.early_stopping import EarlyStopping
from maas_sdk.training.feed import Feed, eval_batches, this_host, train_feed
from maas_sdk.training.hooks import EvalRecord, Finished, Hook, Started
from maas_sdk.training.loop import Loop, Pace
from maas_sdk.training.losses import LossFn, loss_by_name
from maas_sdk.training.optimizer import OptimizerConfig, make_optimizer
from maas_sdk.training.precision import Policy
from maas_sdk.training.programs import compile_eval, compile_train
from maas_sdk.training.step import (
    Objective,
    TrainState,
    make_eval_step,
    make_train_step,
    supervised,
    take_apart,
)

__all__ = ["TrainConfig", "TrainResult", "Trainer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How to train."""

    # Passes over the training data. With neither epochs nor steps: 10 epochs.
    epochs: int | None = None
    # Or steps, for data without an end.
    steps: int | None = None
    # Rows per step over all devices together; a multiple of the mesh's axes that rows are cut over.
    batch_size: int = 64
    # Decides the order of the examples. The model's initial weights have their own seed.
    seed: int = 0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    # A policy, or its text: "bf16", "params=float32,compute=bfloat16,output=float32".
    precision: Policy | str = field(default_factory=Policy)
    # A name out of ``losses.LOSSES``, or (outputs, labels) → loss of each row.
    loss: str | LossFn = "cross_entropy"
    # Share of each target that is spread over all classes; see ``losses.cross_entropy``.
    label_smoothing: float = 0.0
    # A name out of ``sharding``'s strategies.
    strategy: str = "data"
    # Steps between evaluations; None is once an epoch, or at the end for data without epochs.
    eval_every: int | None = None
    # Steps between step records, for logs and the progress bar.
    log_every: int = 10
    early_stopping: EarlyStopping | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "batch_size", "eval_every", "log_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected 1 or more, got {value}")
        if self.epochs is not None and self.steps is not None:
            raise ConfigError(
                f"epochs {self.epochs} and steps {self.steps} are both given; leave one out"
            )
        if isinstance(self.loss, str):
            loss_by_name(self.loss, label_smoothing=self.label_smoothing)
        _ = self.policy

    @property
    def policy(self) -> Policy:
        """``precision`` as a policy."""
        return Policy.parse(self.precision) if isinstance(self.precision, str) else self.precision

    def total_steps(self, steps_per_epoch: int | None) -> int:
        """Steps of a run over data with so many steps per epoch.

        Raises:
            ConfigError: neither ``steps`` nor an epoch's length is known.
        """
        if self.steps is not None:
            return self.steps
        if steps_per_epoch is None:
            raise ConfigError("the data does not say how long an epoch is: give steps=")
        return (self.epochs or 10) * steps_per_epoch


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """A trained model, and how it came about."""

    # A module of the given one's kind with the trained master weights, on one device, in eval mode:
    # those of the best evaluation where early stopping restores it, the last ones otherwise.
    model: nnx.Module
    # One record per evaluation.
    history: tuple[EvalRecord, ...]
    # The record of the weights in ``model``.
    best: EvalRecord
    # Steps taken.
    steps: int
    # Those among them whose loss or gradients were not finite, which changed nothing.
    skipped_steps: int
    stopped_early: bool
    # Devices that shared each batch.
    devices: int
    wall_s: float
    # Training rows of this call, over its whole time, compilation and evaluations included.
    rows_per_s: float
    # Programs that were compiled.
    compiles: int


@dataclass(frozen=True, slots=True)
class Trainer:
    """Trains models as a configuration says."""

    config: TrainConfig

    def fit(
        self,
        model: nnx.Module,
        train_data: object,
        eval_data: object = None,
        *,
        hooks: Sequence[Hook] = (),
        objective: Objective | None = None,
    ) -> TrainResult:
        """Train ``model``, which is left as it was, and return the trained copy.

        Args:
            model: maps inputs ``[B, …]`` to outputs, for instance logits ``[B, K]``.
            train_data: ``Examples``, a ``Split``, or what ``feed.train_feed`` takes.
            eval_data: the same, to judge by; None with a ``Split`` is its held-out part.
            hooks: each is called with every record; see ``training.hooks``.
            objective: (model, batch) → (loss, metrics), for what is no ``loss`` of outputs and
                labels.

        Raises:
            ConfigError: the batch size does not fit the mesh or the data, or an unknown strategy.
        """
        began = time.perf_counter()
        config, policy = self.config, self.config.policy
        mesh = mesh_for(_spelling(config.strategy))
        check_batch_size(mesh, config.batch_size)
        if eval_data is None and isinstance(train_data, Split):
            eval_data = train_data
        feed = train_feed(
            train_data, batch_size=config.batch_size, seed=config.seed, host=this_host()
        )
        pace = _pace(config, feed)
        optimizer = make_optimizer(config.optimizer, steps=pace.steps)
        chosen = supervised(_loss(config)) if objective is None else objective
        # A second module over the same arrays: modes can be set without the caller noticing.
        own: Any = nnx.merge(*nnx.split(model), copy=True)
        own.eval()
        eval_graph = nnx.split(own)[0]
        own.train()
        train_graph, state = take_apart(own, optimizer, policy)
        state = replicate(mesh, state)
        place = partial(place_batch, mesh)
        first = place(next(feed.batches))
        train = compile_train(
            make_train_step(train_graph, optimizer, policy, chosen), state, first, mesh
        )
        evaluate = None
        if eval_data is not None:
            held_out = partial(
                eval_batches, eval_data, batch_size=config.batch_size, host=this_host()
            )
            evaluate = compile_eval(
                make_eval_step(eval_graph, policy, chosen), state, place(next(held_out())), mesh
            )
        loop = Loop(
            leaves=jax.tree.leaves(state),
            train=train,
            evaluate=evaluate,
            eval_batches=lambda: map(place, held_out()),
            pace=pace,
            early_stopping=config.early_stopping,
            hooks=hooks,
            keeper=None,
            broken=None,
        )
        for hook in hooks:
            hook(_started(pace, mesh))
        loop.run(_first_then(first, feed, place))
        wall_s = time.perf_counter() - began
        finished = Finished(
            step=loop.step,
            stopped_early=loop.stopped_early,
            skipped_steps=loop.skipped,
            wall_s=wall_s,
        )
        for hook in hooks:
            hook(finished)
        final = jax.tree.unflatten(jax.tree.structure(state), loop.best or loop.leaves)
        best = [r for r in loop.history if r.step == loop.verdict.best_step] or loop.history[-1:]
        return TrainResult(
            model=_put_together(eval_graph, final),
            history=tuple(loop.history),
            best=best[0],
            steps=loop.step,
            skipped_steps=loop.skipped,
            stopped_early=loop.stopped_early,
            devices=mesh.size,
            wall_s=wall_s,
            rows_per_s=loop.step * config.batch_size / wall_s,
            compiles=1 + (evaluate is not None),
        )


def _spelling(strategy: str) -> str:
    return "data_parallel" if strategy == "data" else strategy


def _loss(config: TrainConfig) -> LossFn:
    if callable(config.loss):
        return config.loss
    return loss_by_name(config.loss, label_smoothing=config.label_smoothing)


def _pace(config: TrainConfig, feed: Feed) -> Pace:
    steps = config.total_steps(feed.steps_per_epoch)
    return Pace(
        steps=steps,
        eval_every=config.eval_every or feed.steps_per_epoch or steps,
        log_every=config.log_every,
        batch_size=config.batch_size,
        steps_per_epoch=feed.steps_per_epoch,
    )


def _started(pace: Pace, mesh: Mesh) -> Started:
    return Started(
        step=0,
        steps=pace.steps,
        batch_size=pace.batch_size,
        steps_per_epoch=pace.steps_per_epoch,
        devices=mesh.size,
    )


def _first_then(first: Any, feed: Feed, place: Any) -> Iterator[Any]:
    """The batch that was looked at, and those after it."""
    yield first
    while True:
        try:
            batch = next(feed.batches)
        except StopIteration:
            return
        yield place(batch)


def _put_together(graphdef: nnx.GraphDef[Any], state: TrainState) -> nnx.Module:
    """The trained module, its arrays gathered from the mesh onto the first device."""
    params, rest = jax.device_put((state.judged, state.rest), jax.local_devices()[0])
    model: nnx.Module = nnx.merge(graphdef, params, rest)
    return model
