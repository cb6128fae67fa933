"""The training loop: steps and records, with evaluations, checkpoints and early stopping.

The rule it keeps: the host only ever looks at what the device has finished ``LAG`` steps ago, and
looks at the same step in every run. At a checkpoint everything outstanding is waited for, so what
is saved is complete: a run that is taken up from it goes on as the one that was not stopped.
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
from maas_sdk.training.metrics import LAG, Late, Sums
from maas_sdk.training.run.compiled_steps import EvalProgram, Leaves, TrainProgram, copy_leaves

__all__ = ["Loop", "LoopCheckpoints", "Pace"]


class LoopCheckpoints(Protocol):
    """Interface of the checkpoints; ``training.checkpoints.manager`` implements it."""

    def due(self, step: int, *, evaluated: bool) -> bool:
        """Return True to save after this step, which was or was not evaluated."""
        ...

    def save(self, step: int, leaves: Leaves, best: Leaves | None, news: dict[str, Any]) -> None:
        """Save a checkpoint; the leaves may be donated when it returns."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Intervals of logging, evaluation and saving, in steps."""

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
        pace: Pace,
        early_stopping: EarlyStopping | None,
        hooks: Sequence[Hook],
        keeper: LoopCheckpoints | None,
        skip_nonfinite: int,
        broken: Callable[[int, Leaves, Any], Exception],
    ) -> None:
        """Set up a loop that has not begun.

        Args:
            leaves: of the state to begin with; donated by the first step.
            train: the training program.
            evaluate: the evaluation program; None when there is nothing to evaluate on.
            eval_batches: the placed batches of an evaluation.
            pace: what happens when.
            early_stopping: None goes on to the last step.
            hooks: are given every record.
            keeper: of checkpoints; None keeps none.
            skip_nonfinite: steps in a row that may be not finite; the program stands still after
                one more.
            broken: (step, leaves, its placed batch) → the error to raise then.
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
        self._pace = pace
        self._early_stopping = early_stopping
        self._hooks = tuple(hooks)
        self._keeper = keeper
        self._skip_nonfinite = skip_nonfinite
        self._broken = broken
        # Steps in a row that were not finite.
        self._bad = 0
        self._late = Late()
        self._nonfinite = train.names.index("nonfinite")
        # Since the last step record, and since the last evaluation.
        self._window = Sums(train.names)
        self._span = Sums(train.names)
        self._logged_at = self._judged_at = time.perf_counter()
        # The step of the newest checkpoint.
        self._saved: int | None = None

    def run(self, feed: Iterable[Any]) -> None:
        """Take steps until the last one, or until early stopping says so.

        Raises:
            InputError: the feed ends first, or a batch is unlike the first one.
        """
        self._logged_at = self._judged_at = time.perf_counter()
        batches = iter(feed)
        while self.step < self._pace.steps and not self.stopped_early:
            try:
                batch = next(batches)
            except StopIteration:
                raise self._exhausted() from None
            self.leaves, packed = self._step(batch)
            self.step += 1
            self._late.put(self.step, packed, partial(self._learned, self.step, batch))
            last = self.step == self._pace.steps
            if evaluated := last or self.step % self._pace.eval_every == 0:
                self._judge()
            self._late.settle(self.step)
            if self._keeper is not None and self._keeper.due(self.step, evaluated=evaluated):
                self.save()
        self.save()

    def _step(self, batch: Any) -> tuple[Leaves, jax.Array]:
        try:
            return self._train.run(self.leaves, batch)
        except (TypeError, ValueError):
            # The executable refuses other shapes before it starts; say so in our words.
            check_batch(f"batch {self.step + 1}", self._train.batch, batch)
            raise

    def save(self) -> None:
        """Wait for outstanding results, and save a checkpoint where this step has none."""
        self._late.flush()
        if self._keeper is not None and self._saved != self.step:
            self._saved = self.step
            self._keeper.save(self.step, self.leaves, self.best, self.get_state())
            self._tell(Saved(step=self.step))

    def get_state(self) -> dict[str, Any]:
        """Return the host's state, JSON-able; complete after ``save`` has waited."""
        return {
            "step": self.step,
            "skipped": self.skipped,
            "bad": self._bad,
            "history": [record.to_dict() for record in self.history],
            "verdict": asdict(self.verdict),
            "stopped_early": self.stopped_early,
            "window": self._window.get_state(),
            "span": self._span.get_state(),
        }

    def set_state(self, state: dict[str, Any], leaves: Leaves, best: Leaves | None) -> None:
        """Restore the result of ``get_state``, and the arrays that were saved with it."""
        self.leaves, self.best = leaves, best
        self.step, self.skipped, self._bad = state["step"], state["skipped"], state["bad"]
        self._saved = self.step
        self.history = [EvalRecord(**record) for record in state["history"]]
        self.verdict = StoppingVerdict(**state["verdict"])
        self.stopped_early = state["stopped_early"]
        self._window.set_state(state["window"])
        self._span.set_state(state["span"])

    def _learned(self, step: int, batch: Any, packed: Array) -> None:
        """Handle the arrival of a step's metrics."""
        if not packed[0, self._nonfinite]:
            self._window.add(packed)
            self._span.add(packed)
            self._bad = 0
        else:
            self._bad += 1
            if self._bad > self._skip_nonfinite:
                raise self._broken(step, self.leaves, batch)
            self.skipped += 1
            self._tell(Skipped(step=step, count=self.skipped))
        if step % self._pace.log_every == 0 and self._window.batches:
            self._log(step)

    def _log(self, step: int) -> None:
        now = time.perf_counter()
        took_s = (now - self._logged_at) / self._window.batches
        self._tell(
            StepRecord(
                step=step,
                steps=self._pace.steps,
                metrics=self._window.means(),
                rows_per_s=self._pace.batch_size / took_s,
                step_time_s=took_s,
            )
        )
        self._window, self._logged_at = Sums(self._train.names), now

    def _judge(self) -> None:
        """Start an evaluation; its result is delivered with this step's records."""
        found = Sums(self._evaluate.names if self._evaluate else ())
        candidate = None if self.best is None else copy_leaves(self.leaves)
        running: deque[jax.Array] = deque()
        for batch in self._eval_batches() if self._evaluate else ():
            running.append(self._evaluate.run(self.leaves, batch))  # type: ignore[union-attr]
            if len(running) > LAG:
                found.add(np.asarray(running.popleft()))
        for packed in running:
            self._late.put(self.step, packed, found.add)
        self._late.put(self.step, _NOTHING, partial(self._judged, self.step, found, candidate))

    def _judged(self, step: int, found: Sums, candidate: Leaves | None, _: Array) -> None:
        """Handle the arrival of an evaluation's metrics, after those of all steps before it."""
        now = time.perf_counter()
        took_s = now - self._judged_at
        per_epoch = self._pace.steps_per_epoch
        record = EvalRecord(
            step=step,
            epoch=-(-step // per_epoch) if per_epoch else 0,
            train=self._span.means(),
            eval=found.means(),
            rows_per_s=self._span.batches * self._pace.batch_size / took_s,
            wall_s=took_s,
        )
        self.history.append(record)
        self._span, self._judged_at = Sums(self._train.names), now
        if self._early_stopping is not None:
            value = record.eval[self._early_stopping.metric]
            self.verdict = judge(self._early_stopping, self.verdict, step=step, value=value)
            if self.verdict.best_step == step:
                self.best = candidate
            self.stopped_early = self.verdict.stop(self._early_stopping)
        self._tell(record)

    def _tell(self, record: Record) -> None:
        for hook in self._hooks:
            hook(record)

    def _exhausted(self) -> InputError:
        return InputError(
            f"the training data ended after {self.step} of {self._pace.steps} steps: give more, "
            "an iterable that starts over, or fewer steps",
            step=self.step,
            steps=self._pace.steps,
        )


# What is waited for when an evaluation has no batches of its own.
_NOTHING: Any = np.zeros(())
