"""Setup of a run: model, data and configuration → a state on a mesh and compiled programs.

Everything that can be wrong is found here, before the first step: data that does not fit the mesh,
labels that the model has no output for, a step that does not fit the memory. The result has been
traced and compiled once, and shares no array with the caller that a step donates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from flax import linen, nnx
from jax.sharding import Mesh

from maas_sdk.errors import ConfigError, InputError, MachineError
from maas_sdk.sharding.activations import keep_rows_cut
from maas_sdk.sharding.layout import Layout, host_part, row_parts
from maas_sdk.training.data import Split
from maas_sdk.training.diagnose.memory import (
    MemoryNeed,
    device_memory,
    is_out_of_memory,
    out_of_memory,
)
from maas_sdk.training.diagnose.nonfinite import find_origin, nonfinite_error
from maas_sdk.training.diagnose.validation import check_labels, describe_batch
from maas_sdk.training.losses import CLASSES
from maas_sdk.training.optimizer import learning_rate_schedule, make_optimizer
from maas_sdk.training.qtraining import prepare
from maas_sdk.training.run.compiled_steps import (
    EvalProgram,
    TrainProgram,
    compile_eval,
    compile_train,
)
from maas_sdk.training.run.config import TrainConfig
from maas_sdk.training.run.input_pipeline import (
    HostBatch,
    InputPipeline,
    eval_batches,
    train_pipeline,
)
from maas_sdk.training.run.loop import RunLength
from maas_sdk.training.run.placement import batch_placer, mesh_of, placed_state
from maas_sdk.training.step import (
    Objective,
    TrainState,
    make_eval_step,
    make_train_step,
    supervised,
)

__all__ = ["RunSetup", "held_out_batches", "memory_error", "nonfinite_step", "set_up_run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSetup:
    """Everything that a loop needs, and that its results are read with."""

    mesh: Mesh
    # How the weights lie on it; what could not be done as asked is in its warnings.
    layout: Layout
    # The state to begin with; the first step donates it.
    state: TrainState
    # The given module's structure in evaluation mode, which the trained weights are put into.
    plain: nnx.GraphDef[Any]
    # The structure that is trained, as the policy has it.
    graphdef: nnx.GraphDef[Any]
    objective: Objective
    pipeline: InputPipeline
    length: RunLength
    train: TrainProgram
    evaluate: EvalProgram | None
    # Placed batches of an evaluation.
    held_out: Callable[[], Iterator[Any]]
    # A host's batch → the placed batch; looks at labels that could not be looked at before.
    place: Callable[[HostBatch], Any]
    # The first batch, placed; what the step was compiled for.
    first: Any

    @property
    def tree(self) -> Any:
        """Structure of the state, for its flat list of leaves."""
        return jax.tree.structure(self.state)


def set_up_run(
    config: TrainConfig,
    model: nnx.Module,
    train_data: object,
    eval_data: object = None,
    *,
    objective: Objective | None = None,
) -> RunSetup:
    """Set a run up; ``model`` stays as it is.

    Raises:
        ConfigError: the data does not fit the mesh, or the configuration the data.
        InputError: labels that the model has no output for; data that is none.
        MachineError: the step does not fit the memory.
    """
    if isinstance(model, linen.Module):
        raise ConfigError(
            "a linen module comes with its variables: from maas_sdk.training.run.linen import "
            "from_linen, then fit(from_linen(module, variables), …)"
        )
    mesh = mesh_of(config)
    host = host_part(mesh)
    pipeline = train_pipeline(train_data, batch_size=config.batch_size, seed=config.seed, host=host)
    length = _run_length(config, pipeline)
    if eval_data is None and isinstance(train_data, Split):
        eval_data = train_data.test
    # Filled while the step is traced: before that the width of the model's output is not known.
    widths: list[int] = []
    chosen = _objective(config, widths) if objective is None else objective
    optimizer = make_optimizer(
        # The step itself leaves out what is not finite, batch statistics included.
        replace(config.optimizer, skip_nonfinite=0),
        steps=length.steps,
    )
    policy = config.policy
    plain, eval_graph, own = _train_and_eval_modes(model, config, mesh)
    parts: Any = nnx.split(own, nnx.Param, ...)
    graphdef, params, rest = parts
    checked = _CheckedPlacement(batch_placer(mesh), watch=widths, known=pipeline.labels is not None)
    state: TrainState | None = None
    first: Any = None
    try:
        state, layout = placed_state(config, mesh, params, rest, optimizer)
        # The first batch gives the shapes to compile for. It is kept and trained on: data that can
        # be gone through only once must not lose it.
        first = checked.place_first(_first_batch(pipeline, length, hosts=host[1]))
        train = compile_train(
            make_train_step(
                graphdef,
                optimizer,
                policy,
                chosen,
                schedule=learning_rate_schedule(config.optimizer, steps=length.steps),
                ema_decay=config.optimizer.ema_decay,
                skip_nonfinite=config.optimizer.skip_nonfinite,
            ),
            state,
            first,
            mesh,
            # Between tracing and compiling: wrong labels are told at once, not after minutes.
            traced=lambda: checked.check_all(pipeline, eval_data),
        )
        evaluate = None
        if eval_data is not None:
            evaluate = compile_eval(
                make_eval_step(eval_graph, policy, chosen),
                state,
                # Not lost: every evaluation begins anew.
                next(held_out_batches(config, mesh, eval_data, checked)),
                mesh,
            )
    except Exception as error:
        # Placing the state allocates, and compilers for accelerators refuse what does not fit.
        if is_out_of_memory(error):
            raise memory_error(config, mesh, state, first, None, error) from error
        raise
    _check_early_stopping(config, evaluate)
    return RunSetup(
        mesh=mesh,
        layout=layout,
        state=state,
        plain=plain,
        graphdef=graphdef,
        objective=chosen,
        pipeline=pipeline,
        length=length,
        train=train,
        evaluate=evaluate,
        held_out=lambda: held_out_batches(config, mesh, eval_data, checked),
        place=checked,
        first=first,
    )


def held_out_batches(
    config: TrainConfig, mesh: Mesh, eval_data: object, place: Callable[[HostBatch], Any]
) -> Iterator[Any]:
    """Yield the placed batches of one evaluation.

    Raises:
        InputError: there are none.
    """
    found = False
    for batch in eval_batches(eval_data, batch_size=config.batch_size, host=host_part(mesh)):
        found = True
        yield place(batch)
    if not found:
        raise InputError("the evaluation data has no batches: give some, or leave it out")


def memory_error(
    config: TrainConfig,
    mesh: Mesh,
    state: TrainState | None,
    batch: Any,
    compiled: Any,
    error: BaseException,
) -> MachineError:
    """Make the error for XLA's out of memory, with as much as was there by then."""
    if state is None:
        return MachineError(
            "out of memory while weights and optimizer state were put on the devices: cut them "
            "with strategy='fsdp' over more devices, or take an optimizer with less state. XLA "
            f"said: {error}"
        )
    return out_of_memory(
        MemoryNeed.of(state, batch or {}, compiled),
        batch_size=config.batch_size,
        parts=row_parts(mesh),
        limit=device_memory(),
        cause=error,
    )


def nonfinite_step(config: TrainConfig, run: RunSetup) -> Callable[[int, Any, Any], Exception]:
    """Make the error for a step that is not finite, from (step, leaves, batch)."""
    tree = run.tree

    def error(step: int, leaves: Any, batch: Any) -> Exception:
        # The search reads arrays on the host, and one process holds only its part of them.
        if jax.process_count() > 1:
            return InputError(
                f"step {step}: loss or gradients are not finite; run it in one process to be told "
                "in which layer it began",
                step=step,
            )
        state = jax.tree.unflatten(tree, leaves)
        origin = find_origin(run.graphdef, state, batch, config.policy, run.objective)
        return nonfinite_error(step, origin)

    return error


class _CheckedPlacement:
    """Places batches; checks their labels as soon as the model's width is known."""

    def __init__(self, place: Callable[[HostBatch], Any], *, watch: list[int], known: bool) -> None:
        self._place = place
        # Widths of the outputs that a loss over classes was traced with; empty for other losses.
        self._widths = watch
        self._known = known
        self._first: HostBatch = {}

    def __call__(self, batch: HostBatch) -> Any:
        if self._widths and not self._known:
            check_labels(np.asarray(batch["labels"]), self._widths[0])
        return self._place(batch)

    def place_first(self, batch: HostBatch) -> Any:
        """Place the first batch, whose labels are looked at by ``check_all``."""
        self._first = batch
        return self._place(batch)

    def check_all(self, pipeline: InputPipeline, eval_data: object) -> None:
        """Look at every label that is in memory."""
        if not self._widths:
            return
        known = self._first["labels"] if pipeline.labels is None else pipeline.labels
        check_labels(np.asarray(known), self._widths[0], where="training labels")
        labels = getattr(eval_data, "labels", None)
        if labels is not None:
            check_labels(np.asarray(labels), self._widths[0], where="held-out labels")


def _objective(config: TrainConfig, widths: list[int]) -> Objective:
    loss_fn = config.loss_fn
    if config.loss not in CLASSES:
        return supervised(loss_fn)

    def watched(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        widths.append(outputs.shape[-1])
        return loss_fn(outputs, labels)

    return supervised(watched)


def _train_and_eval_modes(
    model: nnx.Module, config: TrainConfig, mesh: Mesh
) -> tuple[nnx.GraphDef[Any], nnx.GraphDef[Any], nnx.Module]:
    """Return the structures for evaluation and for training, and a module to train.

    All are of a copy of the module over the same arrays: its modes are set, the caller's stay.
    """

    def as_run(module: nnx.Module) -> nnx.Module:
        return keep_rows_cut(prepare(module, config.policy), mesh, config.batch_size)

    own: Any = nnx.merge(*nnx.split(model), copy=True)
    own.eval()
    # Before ``as_run``: the result has the structure that the caller gave.
    plain: Any = nnx.split(own)[0]
    eval_graph: Any = nnx.split(as_run(own))[0]
    own.train()
    return plain, eval_graph, as_run(own)


def _check_early_stopping(config: TrainConfig, evaluate: EvalProgram | None) -> None:
    """Refuse to monitor a metric that is not measured, before the first evaluation."""
    if config.early_stopping is None:
        return
    if evaluate is None:
        raise ConfigError("early stopping needs held-out data: give fit a Split, or eval_data")
    if config.early_stopping.metric not in evaluate.names:
        raise ConfigError(
            f"early stopping watches {config.early_stopping.metric!r}; the evaluation has "
            f"{', '.join(evaluate.names)}"
        )


def _run_length(config: TrainConfig, pipeline: InputPipeline) -> RunLength:
    steps = config.total_steps(pipeline.steps_per_epoch)
    # Data without epochs has no natural place for an evaluation but the end.
    return RunLength(
        steps=steps,
        eval_every=config.eval_every or pipeline.steps_per_epoch or steps,
        log_every=config.log_every,
        batch_size=config.batch_size,
        steps_per_epoch=pipeline.steps_per_epoch,
    )


def _first_batch(pipeline: InputPipeline, length: RunLength, *, hosts: int) -> HostBatch:
    try:
        batch = next(pipeline.batches)
    except StopIteration:
        raise InputError(
            f"the training data has no batch, and {length.steps} steps are to be taken"
        ) from None
    # Batches of the user's own: rates, memory and the cutting of rows all go by ``batch_size``.
    rows = length.batch_size // hosts
    if any(np.shape(array)[:1] != (rows,) for array in batch.values()):
        share = f" over {hosts} processes, {rows} in each" if hosts > 1 else ""
        raise ConfigError(
            f"batch_size is {length.batch_size}{share}, but the first batch is "
            f"{describe_batch(batch)}: say how many rows its arrays have, each with the rows first"
        )
    return batch
