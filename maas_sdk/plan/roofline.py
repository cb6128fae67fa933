"""Estimated time of a step: a roofline of matrix unit, main memory and links.

The rule it keeps: the estimate is a sum that can be checked by hand. The compiler's own estimate is
not used: on sharded programs with loops it comes back negative.

    core = Σ times · max(flops / (efficiency · peak), bytes / bandwidth)    over instructions
    links = Σ bytes sent / (links used at once · link bandwidth)            over collectives
    step = max(max(core, all bytes / bandwidth) + (1 - hidden) · links, links)

Each instruction is bound by the matrix unit or by main memory, whichever is slower; instructions
run one after the other; copies that run beside them only count in the total of main memory. Of the
time on the links the share ``hidden`` passes while the core works. Both constants are fitted on
published runs (``calibration``); latency of small collectives, the host and stragglers are not in
it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maas_sdk.tpu.chips import Chip

__all__ = ["Constants", "Estimate", "estimate", "links_s", "step_s"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Constants:
    """Constants of the roofline, fitted to published runs."""

    # Chip → share of the matrix unit's peak that large products reach, 0 to 1.
    efficiency: Mapping[str, float]
    # Share of the links' time that passes beside computation, 0 to 1.
    hidden: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Seconds of one step, and their parts."""

    # Instruction by instruction.
    core_s: float
    # Products alone, at the efficiency.
    matmul_s: float
    # All of main memory's traffic.
    hbm_s: float
    links_s: float
    step_s: float
    # Share of the chips' bf16 peak that the model's own arithmetic reaches.
    mfu: float
    # "compute", "memory" or "links": what takes most of the step.
    bound: str


def step_s(core: float, hbm: float, links: float, hidden: float) -> float:
    """Combine the three parts of a step into its seconds."""
    return max(max(core, hbm) + (1 - hidden) * links, links)


def links_s(collectives: Sequence[Mapping[str, Any]], chip: Chip) -> float:
    """Return seconds on the links, of collectives as ``child`` describes them.

    An all-to-all's bytes travel a quarter of the ring on average.
    """
    total = 0.0
    for one in collectives:
        hops = max(1.0, one["group_size"] / 4) if one["kind"] == "all-to-all" else 1.0
        total += one["moved_bytes"] * hops / (one["ways"] * chip.link_bandwidth)
    return total


def estimate(
    *,
    work: Sequence[Sequence[Any]],
    collectives: Sequence[Mapping[str, Any]],
    model_flops: float,
    chip: Chip,
    chips: int,
    constants: Constants,
) -> Estimate:
    """Estimate the roofline time of a compiled program.

    Args:
        work: rows of (times, flops, int8 operations, bytes, beside), of one chip.
        collectives: as ``child`` describes them.
        model_flops: of one step, of all chips together.
        chip: of the slice.
        chips: of the slice.
        constants: fitted ones.
    """
    efficiency = constants.efficiency[chip.name]
    rows = [
        (
            times,
            (flops / chip.bf16_flops + int8_ops / chip.int8_ops) / efficiency,
            nbytes / chip.hbm_bandwidth,
            beside,
        )
        for times, flops, int8_ops, nbytes, beside in work
    ]
    core = math.fsum(times * max(matmul, hbm) for times, matmul, hbm, beside in rows if not beside)
    matmul_s = math.fsum(times * matmul for times, matmul, *_ in rows)
    hbm_s = math.fsum(times * hbm for times, _, hbm, _ in rows)
    on_links = links_s(collectives, chip)
    total = step_s(core, hbm_s, on_links, constants.hidden)
    exposed = total - max(core, hbm_s)
    parts = {"compute": matmul_s, "memory": max(core, hbm_s) - matmul_s, "links": exposed}
    return Estimate(
        core_s=core,
        matmul_s=matmul_s,
        hbm_s=hbm_s,
        links_s=on_links,
        step_s=total,
        mfu=model_flops / (chips * chip.bf16_flops * total) if total else 0.0,
        bound=max(parts, key=lambda name: parts[name]),
    )
