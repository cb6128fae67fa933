"""Plans of one step under several layouts, and the recommended one.

The rule it keeps: a plan separates the compiler's figures (whether it fits, bytes, collectives)
from the estimates (seconds, share of peak), and a layout that does not fit or cannot be compiled
stays in the comparison with its reason. The recommended plan fits and is estimated to be fastest;
among estimates within two percent it is the one that leaves more memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from maas_sdk.errors import MaasError
from maas_sdk.plan.calibration import CONSTANTS
from maas_sdk.plan.roofline import Constants, Estimate, estimate
from maas_sdk.tpu.compiler import Answer, CompileJob, compile_jobs
from maas_sdk.tpu.libtpu import Libtpu
from maas_sdk.tpu.slices import Slice, parse_slice

__all__ = ["Comparison", "StepPlan", "axes_for", "make_plan", "plan"]

_ALIKE: Final = 1.02


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPlan:
    """Memory, time and collectives of one layout of a step on a slice."""

    label: str
    slice: Slice
    axes: Mapping[str, int]
    # Whether the compiler placed it in memory; None when it could not be compiled (see ``error``).
    fits: bool | None
    error: str | None
    # Bytes of one chip, by kind; "temporaries" (activations, gathered weights, gradients) and
    # "code" are the compiler's figures, the others exact sizes of the arguments.
    nbytes: Mapping[str, int]
    # What the compiler says the step needs, and what it may take, on one chip.
    needed_bytes: int
    limit_bytes: int
    # As ``child`` describes them: kind, axes, group_size, ways, times, nbytes, moved_bytes.
    collectives: tuple[Mapping[str, Any], ...]
    # Operations of one step, of all chips: the model's own, and with what is computed again.
    model_flops: float
    program_flops: float
    # What one chip's compiled program does, integer operations included.
    chip_flops: float
    estimate: Estimate | None
    # What one step works off.
    items: int
    item_name: str
    # Of the compiling process.
    compile_s: float
    peak_rss_bytes: int

    @property
    def moved_bytes(self) -> float:
        """Bytes sent over links by one chip in one step."""
        return math.fsum(one["moved_bytes"] for one in self.collectives)

    @property
    def items_per_s(self) -> float | None:
        """Items per second of the whole slice."""
        return self.items / self.estimate.step_s if self.estimate and self.estimate.step_s else None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "label": self.label,
            "slice": self.slice.name,
            "mesh": dict(self.axes),
            "fits": self.fits,
            "error": self.error,
            "bytes_per_chip": dict(self.nbytes),
            # 0: the compiler did not say how much, in words that are known.
            "needed_bytes_per_chip": self.needed_bytes or None,
            "limit_bytes_per_chip": self.limit_bytes,
            "collectives": [dict(one) for one in self.collectives],
            "model_flops": self.model_flops,
            "program_flops": self.program_flops,
            "flops_per_chip": self.chip_flops,
            "estimate": None if self.estimate is None else asdict(self.estimate),
            f"{self.item_name}_per_step": self.items,
            f"{self.item_name}_per_s": self.items_per_s,
            "compile_s": self.compile_s,
            "compiler_peak_rss_bytes": self.peak_rss_bytes,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Plans of the same step."""

    plans: tuple[StepPlan, ...]

    @property
    def recommended(self) -> StepPlan | None:
        """The plan with least memory among the fastest that fit; None when none fits."""
        timed = [(p, p.estimate.step_s) for p in self.plans if p.fits and p.estimate]
        if not timed:
            return None
        fastest = min(seconds for _, seconds in timed)
        near = [p for p, seconds in timed if seconds <= fastest * _ALIKE]
        return min(near, key=lambda p: p.needed_bytes)

    @property
    def reason(self) -> str:
        """Reason for the recommendation, in a sentence."""
        best = self.recommended
        if all(p.fits is None for p in self.plans):
            return "none of these could be compiled"
        if best is None or best.estimate is None:
            return "none of these fits: take more chips, shorter or fewer rows, or remat"
        fitting = sum(1 for p in self.plans if p.fits)
        least = min(p.estimate.step_s for p in self.plans if p.fits and p.estimate)
        others = f"fastest of {fitting} that fit"
        if fitting == 1:
            others = "the only one that fits"
        elif best.estimate.step_s > least:
            others = f"within 2 % of the fastest of {fitting} that fit, and needs less memory"
        share = best.needed_bytes / best.limit_bytes
        return f"{best.label}: {others}, at {share:.0%} of a chip's memory"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        best = self.recommended
        return {
            "recommended": None if best is None else best.label,
            "reason": self.reason,
            "plans": [one.to_dict() for one in self.plans],
        }


def axes_for(strategy: str, chips: int) -> dict[str, int]:
    """Return the mesh of a strategy on so many chips when none is given.

    ``fsdp+tensor`` gets the most square one whose tensor axis has at most eight chips: more cut the
    products of one layer too thin.
    """
    if strategy != "fsdp+tensor":
        return {"data" if strategy == "pmap" else strategy: chips}
    tensor = max(t for t in (1, 2, 4, 8) if chips % t == 0 and t * t <= max(chips, 4))
    return {"fsdp": chips // tensor, "tensor": tensor}


def plan(
    jobs: Sequence[CompileJob],
    *,
    timeout_s: float = 900.0,
    libtpu: Libtpu | None = None,
    constants: Constants = CONSTANTS,
    on_plan: Callable[[StepPlan], None] = lambda _: None,
) -> Comparison:
    """Compile each job for its slice and compare the results.

    Args:
        jobs: the layouts to compare; labels tell them apart.
        timeout_s: seconds that each may take to compile.
        libtpu: the compiler; None looks for it.
        constants: of the roofline.
        on_plan: called with each plan as it comes.

    Raises:
        DependencyError: there is no TPU compiler, or the wrong one.
    """
    plans = []

    def answered(answer: Answer) -> None:
        plans.append(make_plan(answer, constants))
        on_plan(plans[-1])

    compile_jobs(jobs, timeout_s=timeout_s, libtpu=libtpu, on_answer=answered)
    return Comparison(plans=tuple(plans))


def make_plan(answer: Answer, constants: Constants = CONSTANTS) -> StepPlan:
    """Convert a job's answer to a plan."""
    job, result = answer.job, answer.result
    target = parse_slice(job.slice)
    if result is None:
        result = {"fits": None, "arguments": {}, "seconds": {}, "items": 0, "item_name": "steps"}
    memory: Mapping[str, int] = result.get("memory", {})
    nbytes: dict[str, int] = dict(result["arguments"])
    if memory:
        nbytes |= {"temporaries": memory["temp"], "code": memory["generated_code"]}
    needed = result.get("needs_bytes") or (
        sum(memory.get(name, 0) for name in ("argument", "output", "temp", "generated_code"))
        - memory.get("alias", 0)
    )
    model_flops = result.get("model_flops", 0.0)
    work = result.get("work", [])
    estimated = None
    if result["fits"]:
        estimated = estimate(
            work=work,
            collectives=result["collectives"],
            model_flops=model_flops,
            chip=target.chip,
            chips=target.chips,
            constants=constants,
        )
    return StepPlan(
        label=job.label,
        slice=target,
        axes=dict(job.axes),
        fits=result["fits"],
        error=_message(answer.error),
        nbytes=nbytes,
        needed_bytes=int(needed),
        limit_bytes=int(result.get("limit_bytes") or target.chip.hbm_bytes),
        collectives=tuple(result.get("collectives", ())),
        model_flops=model_flops,
        program_flops=result.get("program_flops", 0.0),
        chip_flops=sum(times * (flops + int8_ops) for times, flops, int8_ops, *_ in work),
        estimate=estimated,
        items=result["items"],
        item_name=result["item_name"],
        compile_s=sum(result["seconds"].values()),
        peak_rss_bytes=result.get("peak_rss_bytes", 0),
    )


def _message(error: MaasError | None) -> str | None:
    return None if error is None else error.message
