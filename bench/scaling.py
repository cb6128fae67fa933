"""Scaling of a training step: collectives on fake devices, and a plan for 4 to 256 TPU chips.

On 1, 2, 4 and 8 fake CPU devices: what each strategy's compiled step of a small decoder sends, per
device and step, read from its HLO. The rows grow with the devices.

With the real TPU compiler: a training step of the 8-billion-parameter decoder, FSDP, one row of
2048 tokens per chip, on v5e slices of 4 to 256 chips: does it fit, and the estimated share of the
chips' peak (``docs/plan.md`` says how it is estimated and how far off it is).

    python bench/scaling.py [--quick] [--save]

``--quick`` plans two layers for 4 and 16 chips. Needs maas-sdk[train] and the TPU compiler in
MAAS_LIBTPU; without it the second part is left out. With ``--save`` the plot goes to
``docs/images/scaling.svg``. The first part's numbers are exact; the second's compile times are the
only thing here that depends on the machine.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import harness
import jax
from pictures import standing_alone

from maas_sdk.charts.curves import Curve, curve_chart
from maas_sdk.charts.quantities import percent
from maas_sdk.cli.study.plan import make_jobs
from maas_sdk.errors import ConfigError
from maas_sdk.hlo.collectives import KINDS, collectives
from maas_sdk.plan.planner import StepPlan, axes_for, plan
from maas_sdk.plan.recipes import train
from maas_sdk.sharding.mesh import make_mesh
from maas_sdk.sharding.strategies import STRATEGIES
from maas_sdk.tpu.libtpu import find_libtpu

IMAGE = Path(__file__).parent.parent / "docs" / "images" / "scaling.svg"
SLICES = ("v5e:2x2", "v5e:2x4", "v5e:4x4", "v5e:4x8", "v5e:8x8", "v5e:8x16", "v5e:16x16")
QUICK = ("v5e:2x2", "v5e:4x4")
ROWS, LENGTH = 2, 32  # of the small decoder, per device


def sent(strategy: str, devices: int) -> dict[str, object]:
    """Return a device's traffic in a step of the small decoder, by kind of collective."""
    mesh = make_mesh(axes_for(strategy, devices), devices=jax.devices()[:devices])
    program = train(
        mesh,
        model="decoder-tiny",
        strategy=strategy,
        rows=ROWS * devices,
        length=LENGTH,
        # Wide enough that automatic FSDP cuts its weights.
        changes={"features": 256, "hidden_features": 1024, "heads": 8, "kv_heads": 8},
    )
    jitted = jax.jit(program.fn, donate_argnums=program.donate, out_shardings=program.out_shardings)
    found = collectives(jitted.lower(*program.arguments).compile().as_text(), mesh.shape)
    row: dict[str, object] = {"strategy": strategy, "devices": devices}
    for kind in KINDS:
        row[kind] = sum(one.times for one in found if one.kind == kind)
    row["kB sent per device"] = round(sum(one.times * one.moved_bytes for one in found) / 1e3, 1)
    return row


def planned(quick: bool) -> list[StepPlan]:
    """A plan per slice; none where the TPU compiler is missing."""
    try:
        libtpu = find_libtpu()
    except ConfigError as error:
        print(f"no plan for TPU slices: {error.message}", file=sys.stderr)
        return []
    jobs = [
        job
        for name in (QUICK if quick else SLICES)
        for job in make_jobs(
            "llama3-8b", slice_=name, strategies=("fsdp",), layers=2 if quick else None
        )
    ]
    return list(plan(jobs, libtpu=libtpu, timeout_s=1800, on_plan=said).plans)


def said(one: StepPlan) -> None:
    """Print a line of progress."""
    print(f"{one.slice.name}: {one.error or one.fits}, {one.compile_s:.0f} s", file=sys.stderr)


def plan_row(one: StepPlan) -> dict[str, object]:
    """A plan as a row of the table."""
    timed = one.estimate
    return {
        "slice": one.slice.name,
        "chips": one.slice.chips,
        "GB per chip": round(one.needed_bytes / 1e9, 2),
        "fits": {True: "yes", False: "no", None: "error"}[one.fits],
        "GB sent per chip": round(one.moved_bytes / 1e9, 1) if one.fits else "",
        "estimated step s": round(timed.step_s, 3) if timed else "",
        "estimated MFU %": round(100 * timed.mfu, 1) if timed else "",
        "tokens/s": round(one.items_per_s) if one.items_per_s else "",
        "compile s": round(one.compile_s),
        "compiler GB": round(one.peak_rss_bytes / 1e9, 2),
    }


def picture(plans: list[StepPlan]) -> str:
    """The share of peak by chips, as a picture that stands alone."""
    points = tuple((float(p.slice.chips), p.estimate.mfu) for p in plans if p.estimate)
    drawn = curve_chart(
        [Curve(name="FSDP", points=points)],
        title="Estimated share of the chips' peak of an 8B decoder's training step, by v5e chips",
        x_label="v5e chips, one row of 2048 tokens each",
        y_label="estimated share of peak (MFU)",
        x_format=lambda value: f"{value:.0f}",
        y_format=lambda value: percent(value, digits=0),
        x_log2=True,
        y_low=0.0,
        y_high=0.6,
    )
    return standing_alone(drawn)


def main() -> None:
    """Count, plan, and print the result."""
    asked = harness.arguments(
        __doc__,
        extend=lambda parser: parser.add_argument(
            "--quick", action="store_true", help="minutes less"
        ),
    )
    names = [name for name in STRATEGIES if name != "pmap"]
    counts = [
        sent(name, devices)
        for name in names
        for devices in (1, 2, 4, 8)
        if not (name == "fsdp+tensor" and devices < 4)
    ]
    print(harness.table(counts), end="\n\n")
    plans = planned(asked.quick)
    rows = [plan_row(one) for one in plans]
    figures = {
        f"{row['strategy']}_8_devices_kb_sent": float(str(row["kB sent per device"]))
        for row in counts
        if row["devices"] == 8
    }
    for one in plans:
        if one.estimate is not None:
            figures[f"estimated_mfu_{one.slice.chips}_v5e"] = one.estimate.mfu
    if asked.save and not asked.quick and any(one.estimate for one in plans):
        IMAGE.parent.mkdir(exist_ok=True)
        IMAGE.write_text(picture(plans) + "\n", encoding="utf-8")
    notes = (
        "Collectives of one training step, from the compiled programs: a decoder of 2 layers and "
        f"256 features on fake CPU devices, {ROWS} rows of {LENGTH} tokens each.\n\n"
        + harness.table(counts)
        + "\n\nThe same for a training step of the 8-billion-parameter decoder on v5e, FSDP, one "
        "row of 2048 tokens per chip, from the real TPU compiler; step and MFU are estimates of "
        "a roofline calibrated on published runs (docs/plan.md)."
    )
    harness.finish(
        "scaling",
        figures,
        rows or counts,
        save=asked.save,
        notes=notes,
        packages=("jax", "jaxlib", "flax"),
    )


if __name__ == "__main__":
    main()
