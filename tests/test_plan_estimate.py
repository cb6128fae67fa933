"""Slices, the roofline, its calibration on published runs, and which plan is recommended."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from maas_sdk.errors import ConfigError
from maas_sdk.plan.calibration import CONSTANTS, errors, predicted_mfu
from maas_sdk.plan.page import COLUMNS, calibration_rows, html_page, rows, text_table
from maas_sdk.plan.planner import Comparison, axes_for, make_plan
from maas_sdk.plan.published import RUNS, Run
from maas_sdk.plan.roofline import Constants, estimate
from maas_sdk.tpu.chips import CHIPS
from maas_sdk.tpu.compiler import Answer, CompileJob
from maas_sdk.tpu.slices import mesh_shapes, parse_slice

PERFECT = Constants(efficiency=dict.fromkeys(CHIPS, 1.0), hidden=0.0)


def test_slices_are_read():
    """Chips, dimensions, joined ends; v5e joins along 16, v5p where all sizes are cubes of 4."""
    slice_ = parse_slice("V5e:4x4")
    assert (slice_.name, slice_.chips, slice_.wraps) == ("v5e:4x4", 16, (False, False))
    assert parse_slice("v5e:16x16").wraps == (True, True)
    assert parse_slice("v5e:8x16").wraps == (False, True)
    assert parse_slice("v5p:4x4x8").wraps == (True, True, True)
    assert parse_slice("v5p:2x4x4").wraps == (False, False, False)
    assert parse_slice("v6e:1x1").chips == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("v5e", "expected CHIP:SHAPE"),
        ("h100:4x4", "unknown chip 'h100'; known: v5e, v6e, v5p"),
        ("v5e:2x2x2", "wired in 2 dimensions"),
        ("v5p:4x4", "wired in 3 dimensions.*v5p:2x2x2"),
        ("v5e:16x32", "at most 256"),
        ("v5e:3x4", "even sizes"),
        ("v5e:0x4", "expected a shape"),
    ],
)
def test_what_is_no_slice_is_refused(text, words):
    """The message says what is there and gives an example."""
    with pytest.raises(ConfigError, match=words):
        parse_slice(text)


def test_links_that_a_group_uses_at_once():
    """One way along a line, two around a ring, all dimensions together."""
    assert parse_slice("v5e:4x4").ways((4, 1)) == 1
    assert parse_slice("v5e:4x4").ways((4, 4)) == 2
    assert parse_slice("v5e:16x16").ways((16, 16)) == 4
    assert parse_slice("v5p:4x4x4").ways((4, 4, 4)) == 6
    assert parse_slice("v5e:16x16").ways((8, 1)) == 1
    assert parse_slice("v5e:4x4").ways((1, 1)) == 1


def test_the_roofline_by_hand():
    """Products, memory and links of a made-up program, each bound once."""
    chip = CHIPS["v5e"]

    def one(work, collectives=(), constants=PERFECT):
        return estimate(
            work=work,
            collectives=collectives,
            model_flops=16 * 197e12,
            chip=chip,
            chips=16,
            constants=constants,
        )

    compute = one([[2, 197e12, 0.0, 1000, False]])
    assert (compute.step_s, compute.mfu, compute.bound) == (2.0, 0.5, "compute")
    integer = one([[1, 0.0, 393e12, 0, False]])
    assert integer.step_s == 1.0
    memory = one([[1, 197e12 / 10, 0.0, int(819e9), False]])
    assert (memory.step_s, memory.bound) == (1.0, "memory")
    beside = one([[1, 197e12, 0.0, 0, False], [1, 0.0, 0.0, int(819e9 / 2), True]])
    assert beside.step_s == 1.0
    gather = {"kind": "all-gather", "group_size": 4, "ways": 2, "moved_bytes": 300e9}
    links = one([[1, 197e12, 0.0, 0, False]], [gather])
    assert (links.links_s, links.step_s, links.bound) == (3.0, 4.0, "links")
    hidden = Constants(efficiency={"v5e": 1.0}, hidden=0.9)
    assert math.isclose(one([[1, 197e12, 0.0, 0, False]], [gather], hidden).step_s, 3.0)
    everybody = {**gather, "kind": "all-to-all", "group_size": 16}
    assert one([[0, 0.0, 0.0, 0, False]], [everybody]).links_s == 12.0


def test_the_count_is_the_published_one():
    """Tokens per second of the sources times our operations per token are their share of peak."""
    by_name = {run.name: run for run in RUNS}
    for name, tokens_per_s in (("Llama 3.1 8B, 256 v6e", 7207), ("Llama 3.1 70B, 256 v6e", 960)):
        run = by_name[name]
        per_token = run.shape.model_flops(run.length)
        assert tokens_per_s * per_token / 918e12 == pytest.approx(run.mfu, rel=2e-3)
    # 8.03 and 70.6 billion parameters, as the models are called.
    assert by_name["Llama 3.1 8B, 256 v6e"].shape.parameters == pytest.approx(8.03e9, rel=1e-3)
    assert by_name["Llama 3.1 70B, 256 v6e"].shape.parameters == pytest.approx(70.6e9, rel=1e-3)


def fit() -> Constants:
    """The constants that fit the runs marked ``fitted`` best, on a grid of a thousandth."""
    chosen = [run for run in RUNS if run.fitted]
    chips = sorted({run.slice.chip.name for run in chosen})

    def loss(run: Run, efficiency: float, hidden: float) -> float:
        constants = Constants(efficiency={run.slice.chip.name: efficiency}, hidden=hidden)
        return math.log(predicted_mfu(run, constants) / run.mfu) ** 2

    def best(chip: str, hidden: float) -> tuple[float, float]:
        """(loss, efficiency), by thirds: the loss has one valley along the efficiency."""
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


def test_the_constants_are_the_fit():
    """What is written down is what the fit finds."""
    assert fit() == CONSTANTS


def test_the_page_shows_what_the_code_computes():
    """The table of docs/plan.md, line by line."""
    page = (Path(__file__).parent.parent / "docs" / "plan.md").read_text(encoding="utf-8")
    for row in calibration_rows():
        assert f"| {' | '.join(row)} |" in page


def test_how_far_off_the_estimate_is():
    """Within nine percent on what was fitted, within five on what was held out."""
    off = {one.run.name: one for one in errors()}
    assert len(off) == len(RUNS)
    for one in off.values():
        assert abs(one.relative) < (0.09 if one.run.fitted else 0.05), one
    assert sum(not one.run.fitted for one in off.values()) >= 2


def answer(label: str, *, fits=True, flops=197e12, temp=10**9, error=None) -> Answer:
    job = CompileJob(label=label, recipe="r:r", slice="v5e:4x4", axes={"fsdp": 16})
    if error:
        return Answer(job=job, result=None, error=ConfigError(error))
    memory = {"argument": 3 * 10**9, "output": 10**9, "alias": 10**9, "temp": temp}
    result = {
        "fits": fits,
        "arguments": {"weights": 10**9, "optimizer": 2 * 10**9},
        "model_flops": 16 * 100e12,
        "program_flops": 16 * 130e12,
        "items": 1000,
        "item_name": "tokens",
        "seconds": {"lower": 1.0, "compile": 2.0},
        "peak_rss_bytes": 10**9,
    }
    if fits:
        result |= {
            "memory": {**memory, "generated_code": 10**6},
            "collectives": [
                {
                    "kind": "all-gather",
                    "axes": ["fsdp"],
                    "group_size": 16,
                    "ways": 2,
                    "times": 4,
                    "nbytes": 10**9,
                    "moved_bytes": 10**9,
                }
            ],
            "work": [[1, flops, 0.0, 0, False]],
        }
    else:
        result |= {"needs_bytes": 40 * 10**9, "limit_bytes": 16 * 10**9}
    return Answer(job=job, result=result, error=None)


def test_the_fastest_that_fits_is_recommended():
    """Not what does not fit, nor what failed; among alike ones the one that needs less memory."""
    answers = [
        answer("large", fits=False),
        answer("broken", error="no such rule"),
        answer("slow", flops=300e12),
        answer("fast", temp=5 * 10**9),
        answer("fast and small", flops=198e12),
    ]
    made = Comparison(plans=tuple(make_plan(one) for one in answers))
    assert made.recommended is not None
    assert made.recommended.label == "fast and small"
    assert made.reason == (
        "fast and small: within 2 % of the fastest of 3 that fit, and needs less memory, "
        "at 23% of a chip's memory"
    )
    table = text_table(COLUMNS, rows(made))
    lines = [line.split() for line in table.splitlines()]
    assert [line[0] for line in lines] == ["layout", "large", "broken", "slow", "fast", "→"]
    assert "40.0 GB" in table
    assert "error" in table
    document = made.to_dict()
    assert document["recommended"] == "fast and small"
    assert document["plans"][0]["fits"] is False
    assert document["plans"][1]["error"] == "no such rule"
    page = html_page("A <title>", made)
    assert "A &lt;title&gt;" in page
    assert page.count("<svg") == 2
    assert "no such rule" in page
    none = Comparison(plans=(make_plan(answer("large", fits=False)),))
    assert none.recommended is None
    assert "none of these fits" in none.reason
    failed = Comparison(plans=(make_plan(answer("broken", error="no such rule")),))
    assert failed.reason == "none of these could be compiled"


def test_meshes_that_strategies_take():
    """All chips along one axis; for two axes the most square one, tensor at most eight."""
    assert axes_for("data", 16) == {"data": 16}
    assert axes_for("pmap", 4) == {"data": 4}
    assert axes_for("fsdp+tensor", 16) == {"fsdp": 4, "tensor": 4}
    assert axes_for("fsdp+tensor", 256) == {"fsdp": 32, "tensor": 8}
    assert axes_for("fsdp+tensor", 4) == {"fsdp": 2, "tensor": 2}
    assert mesh_shapes(16) == ((8, 2), (4, 4), (2, 8))
