"""Trainer of any Flax model: configuration and data in, a trained model and its history out.

    result = Trainer(TrainConfig(epochs=5, precision="bf16")).fit(model, split)

The rule it keeps: the same model, data and configuration give the same weights, bit for bit, in
any process on the same kind of machine and mesh, however often the run was stopped and resumed.
Everything that happens in between is a function of its own that can be used alone: the step
(``step``), its batches (``input_pipeline``), its programs (``compiled_steps``), the loop
(``loop``). ``setup.set_up_run`` puts them together and ``fit`` lets them run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from maas_sdk.errors import ConfigError
from maas_sdk.training.checkpoints.manager import Checkpoints
from maas_sdk.training.data import prefetch
from maas_sdk.training.diagnose.memory import is_out_of_memory
from maas_sdk.training.hooks import EvalRecord, Finished, Hook, Record, Started
from maas_sdk.training.run.checkpointing import RunCheckpoints, check_resume, restore, settings_of
from maas_sdk.training.run.config import TrainConfig
from maas_sdk.training.run.loop import Loop
from maas_sdk.training.run.metric_logs import log_files
from maas_sdk.training.run.placement import gather
from maas_sdk.training.run.progress import progress_bar
from maas_sdk.training.run.setup import RunSetup, memory_error, nonfinite_step, set_up_run
from maas_sdk.training.step import Objective

__all__ = ["TrainConfig", "TrainResult", "Trainer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """A trained model, and its training history."""

    # A module of the given one's kind with the trained master weights (their average where one is
    # kept), on one device, in eval mode: those of the best evaluation where early stopping
    # restores it, the last ones otherwise.
    model: nnx.Module
    # One record per evaluation, those before a resumption included.
    history: tuple[EvalRecord, ...]
    # The record of the weights in ``model``.
    best: EvalRecord
    # Steps taken, those before a resumption included.
    steps: int
    # Those among them whose loss or gradients were not finite, which changed nothing.
    skipped_steps: int
    stopped_early: bool
    # Devices that shared each batch.
    devices: int
    # Of this call, from its beginning to its end.
    wall_s: float
    # Training rows of this call by its ``wall_s``, compilation and evaluations included.
    rows_per_s: float


@dataclass(frozen=True, slots=True)
class Trainer:
    """Trains models by a configuration; holds no state of a run."""

    config: TrainConfig

    def fit(
        self,
        model: nnx.Module,
        train_data: object,
        eval_data: object = None,
        *,
        hooks: Sequence[Hook] = (),
        objective: Objective | None = None,
        resume: bool | None = None,
    ) -> TrainResult:
        """Train a copy of ``model``, and return the copy.

        Args:
            model: maps inputs ``[B, …]`` to outputs, for instance logits ``[B, K]``. For a linen
                module see ``training.run.linen``.
            train_data: ``Examples``, a ``Split``, or what else ``input_pipeline`` takes.
            eval_data: the same, to judge by; None with a ``Split`` is its held-out part.
            hooks: each is called with every record; see ``training.hooks``.
            objective: (model, batch) → (loss, metrics), for what is no ``loss`` of outputs and
                labels.
            resume: from the latest checkpoint of ``config.checkpoint``: True insists on one, False
                on an empty folder, None takes it up where there is one.

        Raises:
            ConfigError: settings that contradict the data, the mesh or a checkpoint, which must be
                of a run with the same configuration (``checkpointing.settings_of``).
            InputError: data that ends early or that the model cannot learn from; a loss that is not
                finite, with the layer where that began.
            MachineError: a step needs more memory than a device has; with what would fit.
            NotFoundError: ``resume=True`` without a checkpoint.
            DependencyError: the package for a progress bar or for TensorBoard is not installed.
            StorageError: a checkpoint could not be written.
        """
        began = time.perf_counter()
        config = self.config
        with ExitStack() as stack:
            checkpoints = None
            if config.checkpoint is not None:
                checkpoints = stack.enter_context(Checkpoints(config.checkpoint))
                # Before compilation, which may take minutes and would be for nothing.
                check_resume(checkpoints, resume)
            elif resume:
                raise ConfigError("resume=True needs checkpoint=CheckpointConfig(folder=…)")
            bar = stack.enter_context(progress_bar(config.progress))
            # Opened before compilation: a missing tensorboardX is told at once.
            logs = log_files(config.log_folder, tensorboard=config.tensorboard)
            all_hooks = (*bar, *stack.enter_context(logs), *hooks)
            run = set_up_run(config, model, train_data, eval_data, objective=objective)
            batches = _PlacedBatches(run, config.prefetch)
            stack.callback(batches.close)
            settings = settings_of(config, steps=run.length.steps, objective=objective)
            loop = _loop(config, run, batches, all_hooks, checkpoints, settings)
            if checkpoints is not None:
                # After the setup: its leaves say where each restored array lies.
                position = restore(checkpoints, loop, tree=run.tree, settings=settings)
                batches.go_to(position)
            before = loop.step
            _notify(all_hooks, _started(run, before))
            try:
                loop.run(batches)
            except Exception as error:
                if is_out_of_memory(error):
                    raise memory_error(
                        config, run.mesh, run.state, run.first, run.train.compiled, error
                    ) from error
                raise
            wall_s = time.perf_counter() - began
            _notify(all_hooks, _finished(loop, wall_s))
        return TrainResult(
            model=_trained_model(run, loop),
            history=tuple(loop.history),
            best=_best(loop),
            steps=loop.step,
            skipped_steps=loop.skipped,
            stopped_early=loop.stopped_early,
            devices=run.mesh.size,
            wall_s=wall_s,
            rows_per_s=(loop.step - before) * config.batch_size / wall_s,
        )


class _PlacedBatches:
    """Placed batches: the one that the step was compiled for, then those after it."""

    def __init__(self, run: RunSetup, ahead: int) -> None:
        self._first = [run.first]
        source: Any = run.pipeline.batches
        # Iterables of the user's own need not have one.
        self._close: Callable[[], object] = getattr(source, "close", lambda: None)
        self._place: Callable[[Any], Any] = run.place
        if ahead:
            # The thread places as well: a copy to the device is what is worth hiding.
            source, self._place = prefetch(source, run.place, size=ahead), lambda batch: batch
            self._close = source.close
        self._source = source

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._first.pop() if self._first else self._place(next(self._source))

    def position(self) -> Any:
        """Return the position after the last batch handed out."""
        return self._source.get_state()

    def go_to(self, position: Any) -> None:
        """Set the position; None keeps it."""
        if position is not None:
            # It is of the data's beginning; a run that goes on has been past it.
            self._first.clear()
            self._source.set_state(position)

    def close(self) -> None:
        """Stop reading."""
        self._close()


def _loop(
    config: TrainConfig,
    run: RunSetup,
    batches: _PlacedBatches,
    hooks: Sequence[Hook],
    checkpoints: Checkpoints | None,
    settings: dict[str, Any],
) -> Loop:
    saver = None
    if checkpoints is not None:
        saver = RunCheckpoints(
            checkpoints,
            tree=run.tree,
            position=batches.position,
            settings=settings,
        )
    return Loop(
        leaves=jax.tree.leaves(run.state),
        train=run.train,
        evaluate=run.evaluate,
        eval_batches=run.held_out,
        length=run.length,
        early_stopping=config.early_stopping,
        hooks=hooks,
        checkpoints=saver,
        skip_nonfinite=config.optimizer.skip_nonfinite,
        nonfinite_error=nonfinite_step(config, run),
    )


def _notify(hooks: Sequence[Hook], record: Record) -> None:
    for hook in hooks:
        hook(record)


def _started(run: RunSetup, step: int) -> Started:
    return Started(
        step=step,
        steps=run.length.steps,
        batch_size=run.length.batch_size,
        steps_per_epoch=run.length.steps_per_epoch,
        devices=run.mesh.size,
        warnings=run.layout.warnings,
    )


def _finished(loop: Loop, wall_s: float) -> Finished:
    return Finished(
        step=loop.step,
        stopped_early=loop.stopped_early,
        skipped_steps=loop.skipped,
        wall_s=wall_s,
    )


def _best(loop: Loop) -> EvalRecord:
    """Return the evaluation record of the returned weights."""
    if loop.best is not None:
        for record in loop.history:
            if record.step == loop.verdict.best_step:
                return record
    return loop.history[-1]


def _trained_model(run: RunSetup, loop: Loop) -> nnx.Module:
    """Return the trained module, its arrays gathered from the mesh onto the first device."""
    leaves = loop.leaves
    # Until an evaluation counts (NaN never does) ``loop.best`` holds the initial weights, which
    # nobody trained for: then the last ones are handed out.
    if loop.best is not None and loop.verdict.best_step is not None:
        leaves = loop.best
    state = jax.tree.unflatten(run.tree, leaves)
    params, rest = gather(run.mesh, (state.eval_params, state.rest))
    model: nnx.Module = nnx.merge(run.plain, params, rest)
    return model
