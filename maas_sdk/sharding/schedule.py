"""Schedule of a pipeline: the microbatch of each stage at each tick, and the bubble.

The rule it keeps: the schedule is arithmetic on three numbers, the ones that ``pipeline`` uses.

Dimension letters: L blocks, S stages, M microbatches, T ticks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from maas_sdk.errors import ConfigError

__all__ = ["Schedule", "bubble_share", "schedule"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """GPipe's schedule of one forward pass; the backward pass is its mirror image."""

    # L, S and M.
    blocks: int
    stages: int
    microbatches: int

    @property
    def ticks(self) -> int:
        """Number of ticks T = M + S - 1; one stage takes a tick for one microbatch."""
        return self.microbatches + self.stages - 1

    @property
    def blocks_per_stage(self) -> int:
        """Blocks per stage, L / S."""
        return self.blocks // self.stages

    @property
    def bubble_share(self) -> float:
        """Share of idle time; see the function ``bubble_share``."""
        return bubble_share(self.stages, self.microbatches)

    def at(self, stage: int, tick: int) -> int | None:
        """Return the microbatch of a stage at a tick; None in the bubble."""
        microbatch = tick - stage
        return microbatch if 0 <= microbatch < self.microbatches else None

    def table(self) -> str:
        """Return a line per stage and a column per tick: the microbatch, or a dot in the bubble."""
        width = len(str(max(self.ticks - 1, self.microbatches - 1)))
        names = [f"stage {stage}" for stage in range(self.stages)]
        left = max(len(name) for name in (*names, "tick"))
        lines = [_line("tick", left, [str(tick) for tick in range(self.ticks)], width)]
        for stage, name in enumerate(names):
            found = [self.at(stage, tick) for tick in range(self.ticks)]
            cells = ["·" if microbatch is None else str(microbatch) for microbatch in found]
            lines.append(_line(name, left, cells, width))
        lines.append(
            f"{self.blocks_per_stage} blocks a stage, {self.microbatches} microbatches, "
            f"{self.ticks} ticks forward and {self.ticks} backward, "
            f"bubble {self.bubble_share:.1%}"
        )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON-ready values."""
        return {
            "blocks": self.blocks,
            "stages": self.stages,
            "microbatches": self.microbatches,
            "blocks_per_stage": self.blocks_per_stage,
            "ticks": self.ticks,
            "bubble_share": self.bubble_share,
        }


def bubble_share(stages: int, microbatches: int) -> float:
    """Return the share of the stages' time in which they are idle: (S-1) / (M+S-1).

    Huang et al. 2019 (GPipe), section 2.3, https://arxiv.org/abs/1811.06965

    Raises:
        ConfigError: a number below 1.
    """
    for name, value in (("stages", stages), ("microbatches", microbatches)):
        if value < 1:
            raise ConfigError(f"pipeline: {name}: expected 1 or more, got {value}")
    return (stages - 1) / (microbatches + stages - 1)


def schedule(*, blocks: int, stages: int, microbatches: int) -> Schedule:
    """Return the schedule of L blocks on S stages.

    Raises:
        ConfigError: a number below 1, or blocks that cannot be divided into the stages.
    """
    bubble_share(stages, microbatches)
    if blocks < 1 or blocks % stages:
        divisors = [s for s in range(1, blocks + 1) if blocks % s == 0]
        raise ConfigError(
            f"pipeline: {blocks} blocks cannot be divided into {stages} stages; "
            f"{blocks} blocks can be divided into {', '.join(map(str, divisors)) or 'none'}",
            blocks=blocks,
            stages=stages,
        )
    return Schedule(blocks=blocks, stages=stages, microbatches=microbatches)


def _line(name: str, left: int, cells: list[str], width: int) -> str:
    return f"{name:<{left}}  {' '.join(cell.rjust(width) for cell in cells)}"
