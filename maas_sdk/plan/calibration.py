"""Constants of the roofline, fitted to published runs, and its error on each run.

``errors`` shows every run, those that were fitted and those that were not.

For a published run the terms are formulas (``published``): products as the recipe has them, and the
volume of FSDP's collectives, which the compiler's own programs agree with. The fit makes the sum of
squared log ratios of step times least: one efficiency per chip, one hidden share for all. With one
to three runs per chip it is a calibration of scale, not a proof.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from maas_sdk.plan.published import RUNS, Run
from maas_sdk.plan.roofline import Constants, links_s, step_s

__all__ = ["CONSTANTS", "Error", "errors", "predicted_mfu"]

# The fit is in tests/test_plan_estimate.py; three digits are more than the data gives.
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


def errors(constants: Constants = CONSTANTS) -> tuple[Error, ...]:
    """Return every published run beside its estimate."""
    return tuple(Error(run=run, estimated_mfu=predicted_mfu(run, constants)) for run in RUNS)
