"""Online learning: a trained model is updated with new rows, watched, and rolled back if worse.

    learner = OnlineLearner(model, OnlineConfig(), guard=held_out, publish=publish)
    record = learner.update({"inputs": images, "labels": labels})

Each batch is first predicted and then learned from (prequential evaluation, Dawid 1984; Gama et al.
2013), so the error on it is an honest one, and the drift detector watches that. Then come a few
steps on the new rows mixed with rows out of memory, against forgetting. Then the guard is asked: if
its metric is worse than before by more than the margin, everything is restored to its state before
the batch.

The rule it keeps: an update either happened, with weights, moments, memory and guard all moved on,
or none of these has; every update after the first runs compiled programs. A rolled-back update
still counts: the count of updates and the drift detector have moved on, and with them the rows that
later updates draw and the number of their steps.

Dimension letters: B new rows, G guard rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maas_sdk.errors import ConfigError, InputError, MaasError
from maas_sdk.tensors import Array
from maas_sdk.training.data import Examples
from maas_sdk.training.diagnose.validation import check_labels
from maas_sdk.training.losses import CLASSES, loss_by_name
from maas_sdk.training.online.config import OnlineConfig, OnlineRecord
from maas_sdk.training.online.replay import ReplayBuffer
from maas_sdk.training.optimizer import make_optimizer
from maas_sdk.training.precision import Policy
from maas_sdk.training.qtraining import prepare
from maas_sdk.training.step import (
    TrainState,
    create_train_state,
    make_eval_step,
    make_train_step,
    supervised,
)

__all__ = ["OnlineConfig", "OnlineLearner", "OnlineRecord", "Publish"]

# A model in eval mode, whose arrays are its own → what its publication is known by.
Publish = Callable[[nnx.Module], Any]

# Rows of one call of the evaluation step.
_EVAL_ROWS: Final = 256
# What an optimizer's schedule is told of a run that has no end.
_ENDLESS: Final = 1_000_000


class OnlineLearner:
    """A model that continues to learn. Not for several threads at once.

    Attributes:
        config: how.
        memory: rows of the past.
        detector: the drift test and what it has seen.
        updates: batches so far.
    """

    def __init__(
        self,
        model: nnx.Module,
        config: OnlineConfig,
        *,
        guard: Examples,
        memory: Examples | None = None,
        publish: Publish | None = None,
    ) -> None:
        """Make a learner from ``model``, which stays unchanged.

        Args:
            model: trained; maps inputs [B, …] to outputs.
            config: how to learn.
            guard: rows [G, …] that the model was not trained on.
            memory: rows that it was trained on, to begin the memory with.
            publish: called with the model after updates that were kept, for instance
                ``lambda model: reweight(store.resolve("digits"), model)``.

        Raises:
            ConfigError: an unknown loss, or a guard metric that it does not have.
        """
        self.config = config
        self.updates = 0
        self.detector = config.drift
        self.memory = ReplayBuffer(config.replay_capacity, seed=config.seed)
        self._publish = publish
        self._kept_updates = 0
        self._alert = 0
        policy = config.precision
        policy = Policy.parse(policy) if isinstance(policy, str) else policy
        loss_fn = loss_by_name(config.loss) if isinstance(config.loss, str) else config.loss
        objective = supervised(loss_fn)
        optimizer = make_optimizer(config.optimizer, steps=_ENDLESS)
        own: Any = nnx.merge(*nnx.split(model), copy=True)
        own.eval()
        self._plain = nnx.split(own)[0]
        eval_graph: Any = nnx.split(prepare(own, policy))[0]
        own.train()
        graphdef, state = create_train_state(prepare(own, policy), optimizer, policy)
        self._state = _copied(state)
        self._step = make_train_step(graphdef, optimizer, policy, objective, skip_nonfinite=None)
        self._evaluate = make_eval_step(eval_graph, policy, objective)
        self._guard = _rows_of({"inputs": guard.inputs, "labels": guard.labels})
        self._classes: int | None = None
        if isinstance(config.loss, str) and config.loss in CLASSES:
            self._classes = self._width(policy)
            check_labels(self._guard["labels"], self._classes, where="guard, labels")
        self._recent = {name: array[:0] for name, array in self._guard.items()}
        if memory is not None:
            self.memory.add(self._checked(memory))
        if config.guard_metric not in (found := self._measured(self._guard)):
            raise ConfigError(
                f"guard_metric {config.guard_metric!r}: the model's metrics are "
                f"{', '.join(sorted(found))}"
            )

    @property
    def model(self) -> nnx.Module:
        """The current model, in eval mode, with its own copies of the arrays."""
        state = _copied(self._state)
        model: nnx.Module = nnx.merge(self._plain, state.eval_params, state.rest)
        return model

    def measure(self, examples: Examples) -> dict[str, float]:
        """Return mean "loss", and "accuracy" for classes, of the current model."""
        return self._measured(_rows_of({"inputs": examples.inputs, "labels": examples.labels}))

    def update(self, batch: Mapping[str, Any] | Examples) -> OnlineRecord:
        """Predict a batch, learn from it, keep or roll back the update, publish it when kept.

        Args:
            batch: "inputs" [B, …] and "labels" [B, …], any B.

        Raises:
            InputError: a batch of other names or shapes than the guard, or with values that are
                not finite. Nothing has changed then.
            MaasError: ``publish`` raised, and that is its cause. The update stays kept, and its
                record is ``evidence["record"]``; ``publish(learner.model)`` is free to be tried
                again, the learner does so after the next ``publish_every`` updates.
        """
        began = time.perf_counter()
        rows = self._checked(batch)
        before = self._measured(rows)
        detector = self.detector.update(
            1 - before["accuracy"] if "accuracy" in before else before["loss"]
        )
        self.updates += 1
        drifted = detector.drifted
        self.detector = detector.reset() if drifted else detector
        self._alert = self.config.drift_updates if drifted else max(self._alert - 1, 0)
        steps = self.config.drift_steps if self._alert else self.config.steps

        guard = _joined(self._guard, self._recent)
        guard_before = self._measured(guard)[self.config.guard_metric]
        earlier = _copied(self._state)
        learned, held = self._divided(rows)
        kept = False
        try:
            self._learn(learned, steps)
            guard_after = self._measured(guard)[self.config.guard_metric]
            kept = self._is_good(guard_before, guard_after)
        finally:
            # Whatever ended it, Ctrl-C among that: half an update is none.
            if not kept:
                self._state = earlier
        if kept:
            self.memory.add(learned)
            recent = _joined(self._recent, held)
            self._recent = {n: a[-self.config.guard_recent :] for n, a in recent.items()}
            self._kept_updates += 1
        learned_at = time.perf_counter()
        record = OnlineRecord(
            update=self.updates,
            rows=len(rows["labels"]),
            before=before,
            drifted=drifted,
            steps=steps,
            guard_before=guard_before,
            guard_after=guard_after,
            kept=kept,
            published=None,
            learn_s=learned_at - began,
            publish_s=0.0,
        )
        publish = self._publish
        if kept and publish and self._kept_updates % self.config.publish_every == 0:
            return _published(record, lambda: publish(self.model))
        return record

    def _learn(self, rows: Mapping[str, Array], steps: int) -> None:
        """Take so many steps, each on B shuffled new rows and the configured replayed rows.

        Where there is no memory yet, its place is taken by new rows: every step has one shape.
        """
        config = self.config
        generator = np.random.default_rng((config.seed, self.updates))
        order = generator.permutation(len(rows["labels"]))
        for index in range(steps):
            new = config.batch_rows + (0 if len(self.memory) else config.replay_rows)
            chosen = np.take(order, range(index * new, (index + 1) * new), mode="wrap")
            batch = {name: array[chosen] for name, array in rows.items()}
            if new == config.batch_rows and config.replay_rows:
                batch = _joined(
                    batch, self.memory.draw(config.replay_rows, key=(self.updates, index))
                )
            self._state, _ = self._step(self._state, batch)

    def _is_good(self, before: float, after: float) -> bool:
        """Return True when the guard's metric is not worse than allowed; NaN is worse."""
        worse = after - before if self.config.guard_metric == "loss" else before - after
        return bool(worse <= self.config.guard_margin)

    def _divided(self, rows: dict[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Divide rows into those to learn from, and those that join the guard."""
        held = np.arange(len(rows["labels"])) % self.config.guard_every == 1
        return (
            {name: array[~held] for name, array in rows.items()},
            {name: array[held] for name, array in rows.items()},
        )

    def _measured(self, rows: Mapping[str, Array]) -> dict[str, float]:
        """Return means over rows, computed in calls of one shape padded with zero weights."""
        count = len(rows["labels"])
        sums: list[Any] = []
        for start in range(0, count, _EVAL_ROWS):
            wanted = np.arange(start, start + _EVAL_ROWS)
            chosen = np.where(wanted < count, wanted, start)
            batch = {name: array[chosen] for name, array in rows.items()}
            weights = (wanted < count).astype(np.float32)
            sums.append(self._evaluate(self._state, {**batch, "weights": weights}))
        fetched = jax.device_get(sums)
        return {
            name: float(sum(one[name].total for one in fetched))
            / float(sum(one[name].count for one in fetched))
            for name in fetched[0]
        }

    def _checked(self, batch: Mapping[str, Any] | Examples) -> dict[str, Array]:
        if isinstance(batch, Examples):
            batch = {"inputs": batch.inputs, "labels": batch.labels}
        if set(batch) != {"inputs", "labels"}:
            raise InputError(f"batch: expected inputs and labels, got {', '.join(sorted(batch))}")
        rows = _rows_of(batch)
        count = len(rows["labels"])
        if count < 2 or len(rows["inputs"]) != count:
            raise InputError(
                f"batch: expected 2 rows or more of inputs and labels, got "
                f"{len(rows['inputs'])} inputs and {count} labels"
            )
        if self._classes is not None:
            check_labels(rows["labels"], self._classes, where="batch, labels")
        for name, array in rows.items():
            known = self._guard[name]
            if array.shape[1:] != known.shape[1:] or array.dtype.kind != known.dtype.kind:
                raise InputError(
                    f"batch, {name}: expected rows of {known.dtype}{list(known.shape[1:])} like "
                    f"the guard's, got {array.dtype}{list(array.shape[1:])}"
                )
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                row = int(np.argmin(np.isfinite(array).reshape(count, -1).all(axis=1)))
                raise InputError(f"batch, {name}: row {row} holds NaN or infinity; leave it out")
            rows[name] = array.astype(known.dtype, copy=False)
        return rows

    def _width(self, policy: Policy) -> int:
        """Width K of the model's output."""

        def outputs(state: TrainState, inputs: Any) -> Any:
            model: Any = nnx.merge(self._plain, state.params, state.rest, copy=True)
            return model(policy.cast_compute(inputs))

        return int(jax.eval_shape(outputs, self._state, self._guard["inputs"][:1]).shape[-1])


def _published(record: OnlineRecord, publish: Callable[[], Any]) -> OnlineRecord:
    """Return the record with the result of ``publish``, and its duration."""
    began = time.perf_counter()
    try:
        published = publish()
    except Exception as error:
        raise MaasError(
            f"update {record.update} is learned and kept, but publish failed with "
            f"{type(error).__name__}: {error}. The record is in this error's evidence; to try "
            "again, publish learner.model",
            record=replace(record, publish_s=time.perf_counter() - began),
        ) from error
    return replace(record, published=published, publish_s=time.perf_counter() - began)


def _rows_of(batch: Mapping[str, Any]) -> dict[str, Array]:
    return {name: np.asarray(array) for name, array in batch.items()}


def _joined(one: Mapping[str, Array], other: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.concatenate([one[name], other[name]]) for name in one}


@jax.jit
def _copied(state: TrainState) -> TrainState:
    """Return a copy of the state in its own buffers, which no step donates."""
    copied: TrainState = jax.tree.map(jnp.copy, state)
    return copied
