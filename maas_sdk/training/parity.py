"""Does a cheaper precision train the same model? The same run under two policies, compared.

    result = parity(model, split, policies=("f32", "bf16"))
    print(result.table())

The rule it keeps: the runs differ in the policy alone. They start from the same weights and see the
same batches in the same order, so the loss of each step is on the same rows under both, and what is
between the curves is the precision and nothing else.

    gap = mean over the last tenth of the steps of |loss_reference(t) - loss_candidate(t)|

in the loss's own unit, nats for cross-entropy. It is taken step by step: rows are the same, so
there is no noise of batches to smooth away, and what is above at one step cannot make up for what
is below at another. It is never less than the difference of the two final losses, smoothed over the
same steps, which is what is often compared; that is in the result too. It is not divided by the
loss, which goes to zero where a model learns its rows by heart: a bar in nats means the same at
every loss. Read it together with the losses beside it.

A bar is met when the gap is at most 0.01, or 0.02 where products with weights are quantized.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from flax import nnx

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.training.hooks import EvalRecord, Record, StepRecord
from maas_sdk.training.parity_page import HEADS, comparison_page
from maas_sdk.training.precision import Policy
from maas_sdk.training.trainer import TrainConfig, Trainer

__all__ = ["BAR", "BAR_QUANTIZED", "TAIL", "Curve", "ParityResult", "Verdict", "parity"]

# Largest gap that is parity; see above.
BAR: Final = 0.01
BAR_QUANTIZED: Final = 0.02
# Share of the steps, at the end, that the gap is taken over.
TAIL: Final = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """What one policy's run gave."""

    # As it was named, such as "bf16".
    name: str
    policy: Policy
    # Mean training loss of each step, before its update; shorter where the run broke.
    losses: tuple[float, ...]
    # By name, on the held-out rows after the last step; empty without any.
    eval: Mapping[str, float] = field(default_factory=dict)
    # Why the run ended before its last step; empty if it did not.
    broke: str = ""

    @property
    def final(self) -> float:
        """Mean loss over the last tenth of the steps; NaN where the run broke."""
        return math.nan if self.broke else float(np.mean(self.losses[-_tail(len(self.losses)) :]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One policy held against the reference."""

    reference: str
    candidate: str
    # As the module says; infinite where the candidate's run broke.
    gap: float
    bar: float
    # Difference of the final losses, candidate's less reference's.
    difference: float

    @property
    def passed(self) -> bool:
        """Whether the gap is within the bar."""
        return self.gap <= self.bar


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityResult:
    """Curves of all policies, the reference's first, and a verdict on each of the others."""

    curves: tuple[Curve, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def worst(self) -> Verdict:
        """The verdict that is nearest to its bar, or furthest beyond."""
        return max(self.verdicts, key=lambda verdict: verdict.gap / verdict.bar)

    @property
    def gap(self) -> float:
        """Of the worst verdict."""
        return self.worst.gap

    @property
    def bar(self) -> float:
        """Of the worst verdict."""
        return self.worst.bar

    @property
    def passed(self) -> bool:
        """Whether every policy is within its bar."""
        return all(verdict.passed for verdict in self.verdicts)

    def rows(self) -> list[tuple[str, ...]]:
        """A row per policy, in words: name, final loss, held-out figures, gap, bar, verdict."""
        by_name = {verdict.candidate: verdict for verdict in self.verdicts}
        return [_row(curve, by_name.get(curve.name)) for curve in self.curves]

    def table(self) -> str:
        """The result for a terminal."""
        lines = [HEADS, *self.rows()]
        widths = [max(len(line[i]) for line in lines) for i in range(len(HEADS))]
        text = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        broken = [f"{curve.name}: {curve.broke}" for curve in self.curves if curve.broke]
        return "\n".join([*text, *broken])

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready values; what is not finite is None."""
        return {
            "passed": self.passed,
            "gap": _finite(self.gap),
            "bar": self.bar,
            "verdicts": [
                {
                    "reference": verdict.reference,
                    "candidate": verdict.candidate,
                    "gap": _finite(verdict.gap),
                    "bar": verdict.bar,
                    "difference": _finite(verdict.difference),
                    "passed": verdict.passed,
                }
                for verdict in self.verdicts
            ],
            "curves": [
                {
                    "name": curve.name,
                    "policy": str(curve.policy),
                    "final": _finite(curve.final),
                    "eval": dict(curve.eval),
                    "broke": curve.broke,
                    "losses": [_finite(loss) for loss in curve.losses],
                }
                for curve in self.curves
            ],
        }

    def page(self) -> str:
        """The result as an HTML page that needs nothing else."""
        return comparison_page(self)


def parity(
    model: nnx.Module | Callable[[], nnx.Module],
    data: object,
    policies: Sequence[str | Policy] = ("f32", "bf16"),
    *,
    eval_data: object = None,
    config: TrainConfig | None = None,
    bar: float | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> ParityResult:
    """Train under each policy and compare the losses with the first one's.

    Args:
        model: a module, or a function that makes one; it is made once, and is left as it was.
        data: what ``Trainer.fit`` takes. Data that is iterated over once serves no second run.
        policies: texts as ``Policy.parse`` reads them, or policies; the first is the reference.
        eval_data: to judge by at the end; None with a ``Split`` is its held-out part.
        config: of every run but for its precision; None is ``TrainConfig()``.
        bar: the largest gap that passes; None is ``BAR``, and ``BAR_QUANTIZED`` for policies that
            quantize products.
        progress: called with (policy's name, step, steps) at every step.

    Raises:
        ConfigError: less than two policies, one twice, a bar that is none, or what
            ``Trainer.fit`` refuses.
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
    made = _made(model)
    config = config or TrainConfig()
    if config.early_stopping is not None:
        raise ConfigError("parity: early_stopping would end the runs at different steps; leave it")
    curves: list[Curve] = []
    for name, policy in named.items():
        run = _Run(name, replace(config, precision=policy), progress)
        try:
            Trainer(run.config).fit(made, data, eval_data, hooks=[run.listen])
        except InputError as error:
            # The reference has shown that model and data are right.
            if not curves:
                raise
            run.broke = error.message
        curves.append(run.curve())
    return ParityResult(
        curves=tuple(curves),
        verdicts=tuple(_judge(curves[0], candidate, bar) for candidate in curves[1:]),
    )


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
    """One policy's run, as it is listened to."""

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

    def listen(self, record: Record) -> None:
        """A hook."""
        if isinstance(record, StepRecord):
            self._losses.append(record.metrics["loss"])
            if self._progress is not None:
                self._progress(self.name, record.step, record.steps)
        elif isinstance(record, EvalRecord):
            self._eval = record.eval

    def curve(self) -> Curve:
        return Curve(
            name=self.name,
            policy=self.config.policy,
            losses=tuple(self._losses),
            eval=dict(self._eval),
            broke=self.broke,
        )


def _judge(reference: Curve, candidate: Curve, bar: float | None) -> Verdict:
    if bar is None:
        bar = BAR if candidate.policy.quantized is None else BAR_QUANTIZED
    gap = math.inf
    if not candidate.broke:
        if len(candidate.losses) != len(reference.losses):
            raise ConfigError(
                f"parity: {candidate.name!r} took {len(candidate.losses)} steps that count and "
                f"{reference.name!r} {len(reference.losses)}: expected as many. Data must give "
                "the same batches to every run, and no step may be skipped (skip_nonfinite=0)"
            )
        tail = _tail(len(reference.losses))
        first, second = np.array(reference.losses[-tail:]), np.array(candidate.losses[-tail:])
        # NaN, which meets no bar, is as far away as can be.
        gap = float(np.nan_to_num(np.abs(first - second).mean(), nan=math.inf, posinf=math.inf))
    return Verdict(
        reference=reference.name,
        candidate=candidate.name,
        gap=gap,
        bar=bar,
        difference=candidate.final - reference.final,
    )


def _row(curve: Curve, verdict: Verdict | None) -> tuple[str, ...]:
    held_out = (
        f"{curve.eval['loss']:.4f}" if "loss" in curve.eval else "–",
        f"{100 * curve.eval['accuracy']:.2f} %" if "accuracy" in curve.eval else "–",
    )
    final = "broke" if curve.broke else f"{curve.final:.4f}"
    if verdict is None:
        return (curve.name, final, *held_out, "–", "–", "reference")
    passed = "within" if verdict.passed else "beyond"
    return (curve.name, final, *held_out, f"{verdict.gap:.4f}", f"{verdict.bar:g}", passed)


def _tail(steps: int) -> int:
    return max(1, math.ceil(TAIL * steps))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _name(policy: str | Policy) -> str:
    return policy.strip() if isinstance(policy, str) else str(policy)


def _policy(policy: str | Policy) -> Policy:
    return Policy.parse(policy) if isinstance(policy, str) else policy
