"""One training step and one evaluation step, as pure functions of a state.

The rule it keeps: the module is taken apart once (``nnx.split``) and the step works on arrays
alone, ``(state, batch) → (state, metrics)``, compiled by ``jax.jit`` with the state donated. It is
written for the whole batch; where the arrays lie (``sharding``) decides how many devices work on
it, and every mean, batch statistics included, is one over the global batch.

A step that is not finite changes nothing: neither weights nor optimizer nor batch statistics. As
many of them in a row are skipped as the caller allows; after one more the weights no longer change,
so that the values that broke the loss can be examined when the metrics arrive.

Dimension letters: B rows of a batch, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import ArrayLike

from maas_sdk.training.losses import LossFn
from maas_sdk.training.optimizer import update_ema
from maas_sdk.training.precision import Policy
from maas_sdk.training.state import TrainState, create_train_state, initial_state

__all__ = [
    "Batch",
    "EvalStep",
    "LossFn",
    "Mean",
    "Metrics",
    "MixedPrecisionModel",
    "Objective",
    "TrainState",
    "TrainStep",
    "create_train_state",
    "initial_state",
    "make_eval_step",
    "make_train_step",
    "mean_of",
    "supervised",
]

# The least normal float32: what a sum of no weights is divided by.
_TINY = np.finfo(np.float32).tiny

# "inputs" [B, …], "labels" [B, …], optionally "weights" float[B] or [B, T] (0: a padding row).
# An objective of one's own may look for other names; each array has the rows first.
Batch = Mapping[str, ArrayLike]


@partial(jax.tree_util.register_dataclass, data_fields=["total", "count"], meta_fields=[])
@dataclass(frozen=True, kw_only=True)
class Mean:
    """A weighted sum and its total weight, which add up over batches, devices and hosts."""

    # float32[]
    total: jax.Array
    # float32[], the rows (or tokens) that count.
    count: jax.Array

    @property
    def value(self) -> jax.Array:
        """Total / count, float32[]; 0 where the count is zero."""
        return self.total / jnp.maximum(self.count, _TINY)

    def __add__(self, other: Mean) -> Mean:
        return Mean(total=self.total + other.total, count=self.count + other.count)


# "loss" is always there, "accuracy" for classifiers.
Metrics = dict[str, Mean]

# (model, batch) → (what is differentiated, float[]; what is reported)
Objective = Callable[[Any, Batch], tuple[jax.Array, Metrics]]


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[TrainState, Batch], Metrics]


def mean_of(values: jax.Array, weights: ArrayLike | None = None) -> Mean:
    """Return the mean of values [B] or [B, T], weighted per row [B] or token [B, T].

    Values of weight 0 count for nothing in the mean, NaN among them or not. That does not hold for
    its gradient: what goes back to such a value is 0, but through a function that has no finite
    slope there, 0 times infinity is NaN. Padding is filled with what model and loss can take.
    """
    values = values.astype(jnp.float32)
    if weights is None:
        return Mean(total=values.sum(), count=jnp.asarray(values.size, jnp.float32))
    w = jnp.asarray(weights, jnp.float32)
    w = jnp.broadcast_to(w.reshape(w.shape + (1,) * (values.ndim - w.ndim)), values.shape)
    return Mean(total=jnp.where(w > 0, values * w, 0).sum(), count=w.sum())


def supervised(loss_fn: LossFn) -> Objective:
    """Compute the mean loss of ``model(batch["inputs"])`` against ``batch["labels"]``.

    Where the labels are integers and the outputs have one dimension more, of classes, the share of
    rows whose largest output is at their label is reported as "accuracy".
    """

    def objective(model: Any, batch: Batch) -> tuple[jax.Array, Metrics]:
        labels, weights = jnp.asarray(batch["labels"]), batch.get("weights")
        outputs = model(batch["inputs"])
        metrics = {"loss": mean_of(loss_fn(outputs, labels), weights)}
        by_class = outputs.ndim == labels.ndim + 1 and outputs.shape[-1] > 1
        if by_class and jnp.issubdtype(labels.dtype, jnp.integer):
            metrics["accuracy"] = mean_of(jnp.argmax(outputs, axis=-1) == labels, weights)
        return metrics["loss"].value, metrics

    return objective


class MixedPrecisionModel:
    """Wrapper that calls a module in the policy's precision.

    Floating-point arguments are cast to ``compute``, what it returns to ``output``. Everything else
    is the module's own.
    """

    def __init__(self, model: nnx.Module, policy: Policy) -> None:
        self._model: Any = model
        self._policy = policy

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""
        args, kwargs = self._policy.cast_compute((args, kwargs))
        return self._policy.cast_output(self._model(*args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def make_train_step(
    graphdef: nnx.GraphDef[Any],
    optimizer: optax.GradientTransformation,
    policy: Policy,
    objective: Objective,
    *,
    schedule: optax.Schedule | None = None,
    ema_decay: float | None = None,
    skip_nonfinite: int | None = 0,
    out_shardings: Any = None,
) -> TrainStep:
    """Return a compilable ``(state, batch) → (state, metrics)``.

    The given state is donated: its buffers become the new state's, and it must not be used again.
    To the objective's metrics come "grad_norm", the gradients' global L2 norm before clipping,
    "nonfinite", 1 where the loss or that norm is not finite, and "learning_rate".

    Args:
        graphdef: the module's structure, in training mode.
        optimizer: what turns gradients into updates.
        policy: dtypes; casting inside the differentiated function gives master gradients.
        objective: what is made small.
        schedule: updates made so far → learning rate, to report; the optimizer has its own.
        ema_decay: weight of the old average in ``state.ema``, if it has one.
        skip_nonfinite: steps in a row that may be not finite before the state stands still; None
            applies them all the same.
        out_shardings: of (state, metrics); None leaves them to the compiler.
    """

    def loss_of(
        params: nnx.State[Any, Any], rest: nnx.State[Any, Any], batch: Batch
    ) -> tuple[jax.Array, tuple[Metrics, nnx.State[Any, Any]]]:
        # Copies: a module may only write to variables that were made inside this function.
        model: Any = nnx.merge(graphdef, policy.cast_compute(params), rest, copy=True)
        loss, metrics = objective(MixedPrecisionModel(model, policy), batch)
        # What a module keeps for the objective to read is not state.
        nnx.pop(model, nnx.Intermediate)
        found = nnx.state(model, nnx.Not(nnx.Param))
        return loss.astype(jnp.float32), (metrics, _dtypes_as_in(found, rest))

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        (loss, (metrics, rest)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            state.params, state.rest, batch
        )
        norm = optax.tree.norm(gradients)
        made = _updates_made(state)

        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = TrainState(
            step=state.step + 1,
            params=params,
            rest=rest,
            opt_state=opt_state,
            ema=_averaged(state, params, opt_state, ema_decay),
            skipped=state.skipped,
            bad=state.bad,
        )
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        metrics = {**metrics, "grad_norm": mean_of(norm[None]), "nonfinite": mean_of(~finite[None])}
        if schedule is not None:
            metrics["learning_rate"] = mean_of(jnp.asarray(schedule(made))[None])
        return _guarded(state, new, finite, skip_nonfinite), metrics

    return jax.jit(step, donate_argnums=0, out_shardings=out_shardings)


def make_eval_step(graphdef: nnx.GraphDef[Any], policy: Policy, objective: Objective) -> EvalStep:
    """Return a compilable ``(state, batch) → metrics`` of the weights of ``state.eval_params``.

    Args:
        graphdef: the module's structure, in evaluation mode.
        policy: dtypes.
        objective: the one of training; rows of weight 0 count for nothing.
    """

    def step(state: TrainState, batch: Batch) -> Metrics:
        # Copies, for modules that count their calls even when they are only asked.
        model: Any = nnx.merge(
            graphdef, policy.cast_compute(state.eval_params), state.rest, copy=True
        )
        _, metrics = objective(MixedPrecisionModel(model, policy), batch)
        return metrics

    return jax.jit(step)


def _counted(opt_state: Any) -> jax.Array | None:
    """Return the count of ``optax.MultiSteps``'s updates; None where every step makes one."""
    count: jax.Array | None = optax.tree.get(opt_state, "gradient_step", None)
    return count


def _updates_made(state: TrainState) -> jax.Array:
    """Return updates before this step, int32[]; steps that only accumulate count as none."""
    counted = _counted(state.opt_state)
    return jnp.asarray(state.step - state.skipped if counted is None else counted)


def _averaged(state: TrainState, params: Any, opt_state: Any, decay: float | None) -> Any:
    """Return the weights' average after an update; the old one where gradients accumulate."""
    if state.ema is None or decay is None:
        return state.ema
    new = update_ema(state.ema, params, decay=decay, updates=_updates_made(state))
    before, after = _counted(state.opt_state), _counted(opt_state)
    return new if after is None else _where(jnp.asarray(after != before), new, state.ema)


def _guarded(
    old: TrainState, new: TrainState, finite: jax.Array, skip_nonfinite: int | None
) -> TrainState:
    """Select ``new`` where it may be taken, ``old`` where not, and count bad steps."""
    if skip_nonfinite is None:
        return new
    # Once there were too many in a row, nothing is good any more.
    bad = jnp.where(finite & (old.bad <= skip_nonfinite), 0, old.bad + 1)
    good, going = bad == 0, bad <= skip_nonfinite
    # Where no step may be skipped the first bad one is the last, and nobody asks for the moments
    # again. To keep both old and new ones costs a copy of them at every step.
    opt_state = _where(good, new.opt_state, old.opt_state) if skip_nonfinite else new.opt_state
    return TrainState(
        # A step that is skipped is one that was taken: the count, and random streams, move on, or
        # a bad draw would be drawn for ever. Standing still, they stay.
        step=jnp.where(going, new.step, old.step),
        params=_where(good, new.params, old.params),
        rest=jax.tree.map(
            lambda n, o: jnp.where(good if jnp.issubdtype(o.dtype, jnp.floating) else going, n, o),
            new.rest,
            old.rest,
        ),
        opt_state=opt_state,
        ema=_where(good, new.ema, old.ema),
        skipped=old.skipped + jnp.where(finite, 0, 1),
        bad=bad,
    )


def _where(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def _dtypes_as_in(found: Any, given: Any) -> Any:
    """Cast to the old state's dtypes: a changed one would compile the step again."""
    return jax.tree.map(lambda new, old: new.astype(old.dtype), found, given)
