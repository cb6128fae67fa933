"""Comparison of precisions: the same run under two policies, and its losses.

    result = parity(model, split, policies=("f32", "bf16"))
    print(result.table())

The rule it keeps: the runs differ in the policy alone. They start from the same weights and see the
same batches in the same order, so the loss of each step is on the same rows under both, and only
the precision separates the curves.

    gap = mean over the last tenth of the steps of |loss_reference(t) - loss_candidate(t)|

in the loss's own unit, nats for cross-entropy. It is taken step by step: rows are the same, so
there is no noise of batches to smooth away, and differences of opposite sign at two steps do not
cancel. It is never less than the difference of the two final losses, smoothed over the
same steps, which is what is often compared; that is in the result too. It is not divided by the
loss, which goes to zero where a model learns its rows by heart: a bar in nats means the same at
every loss. Read it together with the losses beside it.

A bar is met when the gap is at most 0.01, or 0.02 where products with weights are quantized.

A run may be so sensitive by itself, while its loss still falls fast or under a high learning rate,
that any disturbance of its weights grows into a gap. A control shows that: the reference once more,
from weights that are changed at random by as much as rounding to bfloat16 may change them. A gap of
the control's size says nothing against a policy; train longer, or with a lower rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import jax
import jax.numpy as jnp
from flax import nnx

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.training.hooks import EvalRecord, Record, StepRecord
from maas_sdk.training.parity.result import LossCurve, ParityResult, ParityVerdict, gap_between
from maas_sdk.training.precision import Policy
from maas_sdk.training.run.trainer import TrainConfig, Trainer

__all__ = ["BAR", "BAR_QUANTIZED", "LossCurve", "ParityResult", "ParityVerdict", "parity"]

# Largest gap that is parity; see above.
BAR: Final = 0.01
BAR_QUANTIZED: Final = 0.02
# Of a control's weights, relative: half the distance of neighbouring bfloat16 numbers.
_DISTURBANCE: Final = 2.0**-8


def parity(
    model: nnx.Module | Callable[[], nnx.Module],
    data: object,
    policies: Sequence[str | Policy] = ("f32", "bf16"),
    *,
    eval_data: object = None,
    config: TrainConfig | None = None,
    bar: float | None = None,
    control: bool = False,
    progress: Callable[[str, int, int], object] | None = None,
) -> ParityResult:
    """Train under each policy and compare the losses with the first one's.

    Args:
        model: a module, or a function that makes one; it is made once, and is left as it was.
        data: what ``Trainer.fit`` takes, but no iterator, which serves no second run.
        policies: texts as ``Policy.parse`` reads them, or policies; the first is the reference.
        eval_data: to judge by at the end; None with a ``Split`` is its held-out part.
        config: of every run but for its precision; None is ``TrainConfig()``.
        bar: the largest gap that passes; None is ``BAR``, and ``BAR_QUANTIZED`` for policies that
            quantize products.
        control: whether the reference is run once more, from disturbed weights; see above.
        progress: called with (policy's name, step, steps) at every step.

    Raises:
        ConfigError: less than two policies, one twice, a bar that is none, data that is an
            iterator, or what ``Trainer.fit`` refuses.
        InputError: the reference's own run breaks. A candidate that breaks is a verdict.
    """
    named = {_name(policy): _policy(policy) for policy in policies}
    if len(policies) < 2 or len(named) < len(policies):
        raise ConfigError(
            f"parity: expected two different policies or more, got "
            f"{', '.join(_name(policy) for policy in policies) or 'none'}"
        )
    if bar is not None and not bar > 0:
        raise ConfigError(f"parity: bar: expected more than 0, got {bar}")
    if isinstance(data, Iterator):
        raise ConfigError(
            "parity: data: every run goes through it from its beginning, and an iterator "
            f"({type(data).__name__}) goes on where the last one stopped: give Examples, a Split, "
            "or a list of batches"
        )
    made = _made(model)
    config = config or TrainConfig()
    if config.early_stopping is not None:
        raise ConfigError("parity: early_stopping would end the runs at different steps; leave it")
    curves: list[LossCurve] = []
    for name, policy in named.items():
        run = _Run(name, replace(config, precision=policy), progress)
        try:
            run.fit(made, data, eval_data)
        except InputError as error:
            # The reference has shown that model and data are right.
            if not curves:
                raise
            run.broke = error.message
        curves.append(run.curve())
    again = None
    if control:
        name = f"{curves[0].name}, disturbed"
        run = _Run(name, replace(config, precision=curves[0].policy), progress)
        run.fit(_disturbed(made), data, eval_data)
        again = run.curve()
    return ParityResult(
        curves=tuple(curves),
        verdicts=tuple(_judge(curves[0], candidate, bar) for candidate in curves[1:]),
        control=again,
    )


def _disturbed(model: nnx.Module) -> nnx.Module:
    """Return the model with each weight times 1 + d, d random in ± 2⁻⁸, by a fixed seed."""
    parts: Any = nnx.split(model, nnx.Param, ...)
    graphdef, params, rest = parts
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(0), len(leaves))

    def disturb(key: jax.Array, leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        share = jax.random.uniform(key, leaf.shape, leaf.dtype, -_DISTURBANCE, _DISTURBANCE)
        return leaf * (1 + share)

    changed = [disturb(key, leaf) for key, leaf in zip(keys, leaves, strict=True)]
    disturbed: nnx.Module = nnx.merge(graphdef, jax.tree.unflatten(tree, changed), rest, copy=True)
    return disturbed


def _made(model: Any) -> nnx.Module:
    if isinstance(model, type):
        raise ConfigError(
            f"parity: got the class {model.__name__}: expected a module of it, or a function "
            f"without arguments that makes one, such as lambda: {model.__name__}(…)"
        )
    made = model if isinstance(model, nnx.Module) or not callable(model) else model()
    if not isinstance(made, nnx.Module):
        raise ConfigError(f"parity: expected a flax.nnx module, got {type(made).__name__}")
    return made


class _Run:
    """Recorder of one policy's run."""

    def __init__(
        self, name: str, config: TrainConfig, progress: Callable[[str, int, int], object] | None
    ) -> None:
        self.name = name
        # One record per step, and an evaluation after the last alone.
        self.config = replace(config, log_every=1, eval_every=2**62)
        self.broke = ""
        self._progress = progress
        self._losses: list[float] = []
        self._eval: Mapping[str, float] = {}

    def fit(self, model: nnx.Module, data: object, eval_data: object) -> None:
        Trainer(self.config).fit(model, data, eval_data, hooks=[self._listen])

    def _listen(self, record: Record) -> None:
        if isinstance(record, StepRecord):
            self._losses.append(record.metrics["loss"])
            if self._progress is not None:
                self._progress(self.name, record.step, record.steps)
        elif isinstance(record, EvalRecord):
            self._eval = record.eval

    def curve(self) -> LossCurve:
        return LossCurve(
            name=self.name,
            policy=self.config.policy,
            losses=tuple(self._losses),
            eval=dict(self._eval),
            broke=self.broke,
        )


def _judge(reference: LossCurve, candidate: LossCurve, bar: float | None) -> ParityVerdict:
    if bar is None:
        bar = BAR if candidate.policy.quantized is None else BAR_QUANTIZED
    return ParityVerdict(
        reference=reference.name,
        candidate=candidate.name,
        gap=gap_between(reference, candidate),
        bar=bar,
        difference=candidate.final - reference.final,
    )


def _name(policy: str | Policy) -> str:
    return policy.strip() if isinstance(policy, str) else str(policy)


def _policy(policy: str | Policy) -> Policy:
    return Policy.parse(policy) if isinstance(policy, str) else policy
