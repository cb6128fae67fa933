"""Constants of the roofline, fitted to published runs, and its error on each run.

The rule it keeps: ``CONSTANTS`` is what ``fit`` finds (a test compares), and ``errors`` shows every
run, those that were fitted and those that were not.

For a published run the terms are formulas (``published``): products as the recipe has them, and the
volume of FSDP's collectives, which the compiler's own programs agree with. The fit makes the sum of
squared log ratios of step times least: one efficiency per chip, one hidden share for all. With one
to three runs per chip it is a calibration of scale, not a proof.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from maas_sdk.plan.published import RUNS, Run
from maas_sdk.plan.roofline import Constants, links_s, step_s

__all__ = ["CONSTANTS", "Error", "errors", "fit", "predicted_mfu"]

# Found by ``fit``; three digits are more than the data gives.
CONSTANTS: Final = Constants(efficiency={"v5e": 0.759, "v5p": 0.819, "v6e": 0.577}, hidden=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Error:
    """A published run and its estimate."""

    run: Run
    # Share of peak.
    estimated_mfu: float

    @property
    def relative(self) -> float:
        """Relative error of the share of peak: 0.05 is five percent too optimistic."""
        return self.estimated_mfu / self.run.mfu - 1


def predicted_mfu(run: Run, constants: Constants) -> float:
    """Return the share of peak that the roofline gives a published run."""
    chip = run.slice.chip
    ways = run.slice.ways(run.slice.shape)
    volume = {"kind": "all-gather", "group_size": run.slice.chips, "ways": ways}
    links = links_s([{**volume, "moved_bytes": run.moved_bytes}], chip)
    core = run.chip_flops / (constants.efficiency[chip.name] * chip.bf16_flops)
    seconds = step_s(core, 0.0, links, constants.hidden)
    return run.model_flops / (seconds * chip.bf16_flops)


def fit(runs: Sequence[Run] = RUNS) -> Constants:
    """Fit the constants to the runs marked ``fitted``, on a grid of a thousandth."""
    chosen = [run for run in runs if run.fitted]
    chips = sorted({run.slice.chip.name for run in chosen})

    def loss(run: Run, efficiency: float, hidden: float) -> float:
        constants = Constants(efficiency={run.slice.chip.name: efficiency}, hidden=hidden)
        return math.log(predicted_mfu(run, constants) / run.mfu) ** 2

    def best(chip: str, hidden: float) -> tuple[float, float]:
        """Return (loss, efficiency), by ternary search: the loss has one valley along it."""
        mine = [run for run in chosen if run.slice.chip.name == chip]
        low, high = 0.05, 1.0
        while high - low > 1e-4:
            a, b = low + (high - low) / 3, high - (high - low) / 3
            if sum(loss(r, a, hidden) for r in mine) < sum(loss(r, b, hidden) for r in mine):
                high = b
            else:
                low = a
        efficiency = round((low + high) / 2, 3)
        return sum(loss(r, efficiency, hidden) for r in mine), efficiency

    found = []
    for step in range(101):
        hidden = step / 100
        each = {chip: best(chip, hidden) for chip in chips}
        found.append((sum(value for value, _ in each.values()), hidden, each))
    _, hidden, each = min(found, key=lambda row: row[0])
    return Constants(efficiency={chip: value for chip, (_, value) in each.items()}, hidden=hidden)


def errors(constants: Constants = CONSTANTS) -> tuple[Error, ...]:
    """Return every published run beside its estimate."""
    return tuple(Error(run=run, estimated_mfu=predicted_mfu(run, constants)) for run in RUNS)
