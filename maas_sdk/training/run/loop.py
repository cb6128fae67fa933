"""The training loop: batches and steps, with evaluations, checkpoints and early stopping.

The host only ever reads metrics that the device has finished ``LAG`` steps ago, and reads them at
the same step in every run. At a checkpoint it waits for everything outstanding, so what is saved is
complete: a run that is resumed from it goes on as the one that was not stopped.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

import jax
import numpy as np

from maas_sdk.errors import InputError
from maas_sdk.tensors import Array
from maas_sdk.training.diagnose.validation import check_batch
from maas_sdk.training.early_stopping import EarlyStopping, StoppingVerdict, judge
from maas_sdk.training.hooks import EvalRecord, Hook, Record, Saved, Skipped, StepRecord
from maas_sdk.training.metrics import LAG, DelayedMetrics, MetricAccumulator
from maas_sdk.training.run.compiled_steps import EvalProgram, Leaves, TrainProgram, copy_leaves

__all__ = ["Loop", "LoopCheckpoints", "RunLength"]


class LoopCheckpoints(Protocol):
    """Interface of the loop's checkpoints; ``checkpointing.RunCheckpoints`` implements it."""

    def due(self, step: int, *, evaluated: bool) -> bool:
        """Return True to save after this step, which was or was not evaluated."""
        ...

    def save(
        self, step: int, leaves: Leaves, best: Leaves | None, loop_state: dict[str, Any]
    ) -> None:
        """Save a checkpoint; the leaves may be donated when it returns."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLength:
    """Length of a run, of its evaluation and log intervals and of its batches."""

    # The step after which the run is over.
    steps: int
    eval_every: int
    log_every: int
    # Rows of a step over all devices.
    batch_size: int
    steps_per_epoch: int | None


class Loop:
    """One run's loop: its state between steps, all of it on this host."""

    def __init__(
        self,
        *,
        leaves: Leaves,
        train: TrainProgram,
        evaluate: EvalProgram | None,
        eval_batches: Callable[[], Iterable[Any]],
        length: RunLength,
        early_stopping: EarlyStopping | None,
        hooks: Sequence[Hook],
        checkpoints: LoopCheckpoints | None,
        skip_nonfinite: int,
        nonfinite_error: Callable[[int, Leaves, Any], Exception],
    ) -> None:
        """Set up a loop that has not begun.

        Args:
            leaves: of the state to begin with; donated by the first step.
            train: the training program.
            evaluate: the evaluation program; None when there is nothing to evaluate on.
            eval_batches: the placed batches of an evaluation.
            length: of the run and of its intervals.
            early_stopping: None goes on to the last step.
            hooks: are given every record.
            checkpoints: where to save; None saves none.
            skip_nonfinite: steps in a row that may be not finite; the program stands still after
                one more.
            nonfinite_error: (step, leaves, its placed batch) → the error to raise then.
        """
        self.leaves = leaves
        self.step = 0
        self.skipped = 0
        self.history: list[EvalRecord] = []
        self.verdict = StoppingVerdict()
        self.stopped_early = False
        # Leaves at the best evaluation (at the beginning while there was none), in buffers of
        # their own; None when the last ones are wanted.
        self.best: Leaves | None = None
        if early_stopping is not None and early_stopping.restore_best:
            self.best = copy_leaves(leaves)
        self._train = train
        self._evaluate = evaluate
        self._eval_batches = eval_batches
        self._length = length
        self._early_stopping = early_stopping
        self._hooks = tuple(hooks)
        self._checkpoints = checkpoints
        self._skip_nonfinite = skip_nonfinite
        self._nonfinite_error = nonfinite_error
        # Steps in a row that were not finite.
        self._bad = 0
        self._delayed = DelayedMetrics()
        self._nonfinite = train.names.index("nonfinite")
        # Since the last step record, and since the last evaluation.
        self._since_log = MetricAccumulator(train.names)
        self._since_eval = MetricAccumulator(train.names)
        self._logged_at = self._evaluated_at = time.perf_counter()
        # The step of the newest checkpoint.
        self._saved: int | None = None

    def run(self, batches: Iterable[Any]) -> None:
        """Take steps until the last one, or until early stopping says so.

        Raises:
            InputError: the batches end first, or a batch is unlike the first one.
        """
        # Again: what a checkpoint took to be restored is no time of a step.
        self._logged_at = self._evaluated_at = time.perf_counter()
        following = iter(batches)
        while self.step < self._length.steps and not self.stopped_early:
            try:
                batch = next(following)
            except StopIteration:
                raise self._exhausted() from None
            self.leaves, packed = self._step(batch)
            self.step += 1
            # Before the evaluation, whose record holds the means up to and including this step.
            self._delayed.put(self.step, packed, partial(self._on_metrics, self.step, batch))
            last = self.step == self._length.steps
            if evaluated := last or self.step % self._length.eval_every == 0:
                self._start_evaluation()
            self._delayed.deliver(self.step)
            if self._due(evaluated=evaluated):
                self.save()
        # After the last step, whatever the interval; without checkpoints it still waits for the
        # last metrics and the last evaluation.
        self.save()

    def _due(self, *, evaluated: bool) -> bool:
        saver = self._checkpoints
        return saver is not None and saver.due(self.step, evaluated=evaluated)

    def _step(self, batch: Any) -> tuple[Leaves, jax.Array]:
        try:
            return self._train.run(self.leaves, batch)
        except (TypeError, ValueError):
            # The executable refuses other shapes before it starts, so no step pays for a check of
            # ours; the error then says which array is unlike the first batch's.
            check_batch(f"batch {self.step + 1}", self._train.batch, batch)
            raise

    def save(self) -> None:
        """Wait for outstanding results, and save a checkpoint where this step has none."""
        # An evaluation that is still running decides what is saved: the best weights, and whether
        # to stop.
        self._delayed.flush()
        if self._checkpoints is not None and self._saved != self.step:
            self._saved = self.step
            self._checkpoints.save(self.step, self.leaves, self.best, self.get_state())
            self._notify(Saved(step=self.step))

    def get_state(self) -> dict[str, Any]:
        """Return the host's state, JSON-able; complete after ``save`` has waited."""
        return {
            "step": self.step,
            "skipped": self.skipped,
            "bad": self._bad,
            "history": [record.to_dict() for record in self.history],
            "verdict": asdict(self.verdict),
            "stopped_early": self.stopped_early,
            "window": self._since_log.get_state(),
            "span": self._since_eval.get_state(),
        }

    def set_state(self, state: dict[str, Any], leaves: Leaves, best: Leaves | None) -> None:
        """Restore the result of ``get_state``, and the arrays that were saved with it."""
        self.leaves, self.best = leaves, best
        self.step, self.skipped, self._bad = state["step"], state["skipped"], state["bad"]
        # It was read from the disk: saving it again would write the same.
        self._saved = self.step
        self.history = [EvalRecord(**record) for record in state["history"]]
        self.verdict = StoppingVerdict(**state["verdict"])
        self.stopped_early = state["stopped_early"]
        self._since_log.set_state(state["window"])
        self._since_eval.set_state(state["span"])

    def _on_metrics(self, step: int, batch: Any, packed: Array) -> None:
        """Take in a step's metrics."""
        if not packed[0, self._nonfinite]:
            self._since_log.add(packed)
            self._since_eval.add(packed)
            self._bad = 0
        else:
            # Not added up: one NaN would make the mean of the whole window NaN.
            self._bad += 1
            if self._bad > self._skip_nonfinite:
                raise self._nonfinite_error(step, self.leaves, batch)
            self.skipped += 1
            self._notify(Skipped(step=step, count=self.skipped))
        # All steps since the last record may have been skipped: there is no mean of nothing.
        if step % self._length.log_every == 0 and self._since_log.batches:
            self._log(step)

    def _log(self, step: int) -> None:
        now = time.perf_counter()
        took_s = (now - self._logged_at) / self._since_log.batches
        self._notify(
            StepRecord(
                step=step,
                steps=self._length.steps,
                metrics=self._since_log.means(),
                rows_per_s=self._length.batch_size / took_s,
                step_time_s=took_s,
            )
        )
        self._since_log, self._logged_at = MetricAccumulator(self._train.names), now

    def _start_evaluation(self) -> None:
        """Start an evaluation; its result is delivered with this step's metrics."""
        found = MetricAccumulator(self._evaluate.names if self._evaluate else ())
        # Copied now: the next step donates the leaves, before the result says if they are best.
        candidate = None if self.best is None else copy_leaves(self.leaves)
        running: deque[jax.Array] = deque()
        for batch in self._eval_batches() if self._evaluate else ():
            running.append(self._evaluate.run(self.leaves, batch))  # type: ignore[union-attr]
            # All at once would fill the device's queue, and its memory with waiting batches.
            if len(running) > LAG:
                found.add(np.asarray(running.popleft()))
        for packed in running:
            self._delayed.put(self.step, packed, found.add)
        self._delayed.put(
            self.step, _NOTHING, partial(self._finish_evaluation, self.step, found, candidate)
        )

    def _finish_evaluation(
        self, step: int, found: MetricAccumulator, candidate: Leaves | None, _: Array
    ) -> None:
        """Take in an evaluation, when the metrics of all steps before it are there."""
        now = time.perf_counter()
        took_s = now - self._evaluated_at
        per_epoch = self._length.steps_per_epoch
        record = EvalRecord(
            step=step,
            # The epoch that the step was in, from 1: rounded up.
            epoch=-(-step // per_epoch) if per_epoch else 0,
            train=self._since_eval.means(),
            eval=found.means(),
            rows_per_s=self._since_eval.batches * self._length.batch_size / took_s,
            wall_s=took_s,
        )
        self.history.append(record)
        self._since_eval, self._evaluated_at = MetricAccumulator(self._train.names), now
        if self._early_stopping is not None:
            value = record.eval[self._early_stopping.metric]
            self.verdict = judge(self._early_stopping, self.verdict, step=step, value=value)
            if self.verdict.best_step == step:
                self.best = candidate
            self.stopped_early = self.verdict.stop(self._early_stopping)
        self._notify(record)

    def _notify(self, record: Record) -> None:
        for hook in self._hooks:
            hook(record)

    def _exhausted(self) -> InputError:
        return InputError(
            f"the training data ended after {self.step} of {self._length.steps} steps: give more, "
            "an iterable that starts over, or fewer steps",
            step=self.step,
            steps=self._length.steps,
        )


# Put after the batches of an evaluation, or alone where there is nothing to evaluate on: its turn
# in the queue is the moment at which everything before it has been delivered.
_NOTHING: Any = np.zeros(())
