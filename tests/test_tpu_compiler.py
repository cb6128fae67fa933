"""The TPU compiler in its own process: three generations of chips, answers that are no programs.

All programs that compile here do so in one child process, started once.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from maas_sdk.cli.study.plan import make_jobs
from maas_sdk.errors import ConfigError, MachineError, ModelError
from maas_sdk.hlo.collectives import collectives
from maas_sdk.plan.planner import Comparison, make_plan, plan
from maas_sdk.tpu.compiler import Answer, CompileJob, compile_jobs
from maas_sdk.tpu.libtpu import VARIABLE, find_libtpu, wanted_version

NEEDS_LIBTPU = pytest.mark.skipif(
    not os.environ.get(VARIABLE), reason=f"{VARIABLE} is not set; make test sets it"
)
RECIPE = """
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from maas_sdk.tpu.program import PlannedProgram

def make(mesh, *, rows=256, features=512, breaks=False):
    if breaks:
        raise ValueError("no such luck")
    cut = lambda *spec: NamedSharding(mesh, P(*spec))
    shape = lambda dims, *spec: jax.ShapeDtypeStruct(dims, jnp.bfloat16, sharding=cut(*spec))
    weights = {
        "up": shape((features, 4 * features), "fsdp", "tensor"),
        "down": shape((4 * features, features), "tensor", "fsdp"),
    }
    def step(w, x):
        loss = lambda w: jnp.mean((jax.nn.gelu(x @ w["up"]) @ w["down"]).astype(jnp.float32) ** 2)
        value, grads = jax.value_and_grad(loss)(w)
        return jax.tree.map(lambda a, b: a - b, w, grads), value
    return PlannedProgram(fn=step, arguments=(weights, shape((rows, features), "fsdp")),
                   kinds=("weights", "batch"), donate=(0,), items=rows, item_name="rows")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plan")


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[str, Answer]:
    """Every answer of the one child, by label."""
    file = folder / "tiny_recipe.py"
    file.write_text(RECIPE)

    def job(label: str, slice_: str = "v5e:2x2", fsdp: int = 2, **options: object) -> CompileJob:
        return CompileJob(
            label=label,
            recipe=f"{file}:make",
            options=options,
            slice=slice_,
            axes={"fsdp": fsdp, "tensor": 2},
            hlo_file=str(folder / f"{label}.txt") if label == "v5e" else None,
        )

    decoder = make_jobs(
        "decoder-tiny", slice_="v5e:2x2", strategies=("fsdp",), rows=8, length=64, layers=3
    )
    decode = make_jobs(
        "decoder-tiny",
        slice_="v5e:2x2",
        step="serve",
        phase="decode",
        strategies=("tensor",),
        rows=8,
        length=64,
        precision="int8",
    )
    tiny = {"slice_": "v5e:2x2", "rows": 8, "length": 64}
    others = [
        *make_jobs("decoder-tiny", strategies=("fsdp",), layers=2, precision="int8", **tiny),
        *make_jobs("decoder-tiny", step="serve", phase="prefill", strategies=("tensor",), **tiny),
        *make_jobs("decoder-tiny", step="serve", phase="decode", strategies=("tensor",), **tiny),
    ]
    others = [
        replace(one, label=label)
        for one, label in zip(others, ("train int8", "prefill bf16", "decode bf16"), strict=True)
    ]
    jobs = [
        job("v5e"),
        job("v6e", "v6e:2x2"),
        job("v5p", "v5p:2x2x2", fsdp=4),
        job("large", rows=1 << 20, features=16384),
        job("breaks", breaks=True),
        job("mesh", fsdp=4),
        *decoder,
        *decode,
        *others,
    ]
    found = compile_jobs(jobs, timeout_s=300)
    assert [one.job for one in found] == jobs
    return {one.job.label: one for one in found}


@pytest.mark.slow
@NEEDS_LIBTPU
@pytest.mark.parametrize("label", ["v5e", "v6e", "v5p"])
def test_three_generations_compile(answers: dict[str, Answer], label: str) -> None:
    """Each gives memory, collectives, work and a finite estimate; arithmetic is exact."""
    made = make_plan(answers[label])
    assert made.error is None
    assert made.fits is True
    # Two matrices of bfloat16 cut over all chips, and the rows over fsdp.
    chips, fsdp = (8, 4) if label == "v5p" else (4, 2)
    weights = 2 * 512 * 2048 * 2 // chips
    assert made.nbytes["weights"] == weights
    assert made.nbytes["batch"] == 256 * 512 * 2 // fsdp
    products = 2 * 256 * 512 * 2048
    # Two products forward, four backward less the gradient of the input.
    assert made.program_flops == 5 * products
    assert made.chip_flops * chips == 5 * products
    assert {one["kind"] for one in made.collectives} >= {"all-gather", "all-reduce"}
    assert all(
        one["axes"] in (["fsdp"], ["tensor"], ["fsdp", "tensor"]) for one in made.collectives
    )
    assert made.estimate is not None
    assert 0 < made.estimate.mfu < 1
    assert made.estimate.step_s > 0
    assert made.peak_rss_bytes < 4 * 2**30


@NEEDS_LIBTPU
@pytest.mark.parametrize("label", ["train int8", "prefill bf16", "decode bf16"])
def test_the_other_steps_and_precisions_compile(answers: dict[str, Answer], label: str) -> None:
    """Training in int8, and serving in bfloat16, with the prompt and token by token."""
    made = make_plan(answers[label])
    assert made.error is None
    assert made.fits is True
    assert made.nbytes["weights"] > 0
    assert ("optimizer" in made.nbytes) == label.startswith("train")
    assert made.estimate is not None
    assert 0 < made.estimate.mfu < 1


@NEEDS_LIBTPU
def test_the_programs_text_is_there_to_read(answers: dict[str, Answer], folder: Path) -> None:
    """The text that was asked for gives the collectives that the plan has."""
    found = collectives((folder / "v5e.txt").read_text(), {"fsdp": 2, "tensor": 2})
    made = make_plan(answers["v5e"])
    assert sum(one.times * one.moved_bytes for one in found) == made.moved_bytes > 0


@NEEDS_LIBTPU
def test_what_does_not_fit_is_an_answer(answers: dict[str, Answer]) -> None:
    """The compiler's own figures of what is needed and what is there, and the arguments' bytes."""
    made = make_plan(answers["large"])
    assert (made.fits, made.error, made.estimate) == (False, None, None)
    assert made.needed_bytes > made.limit_bytes == round(15.75 * 2**30)
    assert made.nbytes["weights"] == 2 * 16384 * 65536 * 2 // 4


@NEEDS_LIBTPU
def test_what_breaks_is_said_and_the_rest_goes_on(answers: dict[str, Answer]) -> None:
    """A recipe that raises and a mesh that is none: errors with their job's name."""
    broken, mesh = answers["breaks"].error, answers["mesh"].error
    assert isinstance(broken, ModelError)
    assert "breaks: recipe" in broken.message
    assert "raised ValueError: no such luck" in broken.message
    assert isinstance(mesh, ConfigError)
    assert "fsdp=4 × tensor=2 has 8 devices, v5e:2x2 has 4 chips" in mesh.message


@NEEDS_LIBTPU
def test_a_decoders_training_step(answers: dict[str, Answer]) -> None:
    """The step that Trainer runs: weights in float32, AdamW's two moments, scanned layers."""
    made = make_plan(answers["fsdp"])
    assert made.error is None
    # Embedding and head 2 · 256 · 64; three layers of attention 4 · 64² and 3 · 64 · 128; norms.
    parameters = 2 * 256 * 64 + 3 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64
    assert made.nbytes["optimizer"] >= 2 * made.nbytes["weights"]
    assert made.nbytes["weights"] >= 4 * parameters // 4
    assert made.items == 8 * 64
    # A step with rematerialization does more than its model asks for.
    assert made.model_flops < made.program_flops < 1.4 * made.model_flops


@NEEDS_LIBTPU
def test_a_decode_step_in_int8(answers: dict[str, Answer]) -> None:
    """Weights of one byte, a cache, and products that run as integers."""
    answer = answers["tensor"]
    made = make_plan(answer)
    assert made.error is None
    assert answer.result is not None
    assert sum(times * int8_ops for times, _, int8_ops, *_ in answer.result["work"]) > 0
    cache = 2 * 2 * 8 * 64 * 4 * 16 * 2 // 4
    assert made.nbytes["cache"] == cache
    assert made.items == 8


@NEEDS_LIBTPU
def test_a_child_that_takes_too_long_is_ended() -> None:
    """Its job says so, and how to give it more time."""
    [answer] = compile_jobs(
        [CompileJob(label="slow", recipe="x:y", slice="v5e:2x2", axes={"fsdp": 4})], timeout_s=0.05
    )
    assert isinstance(answer.error, MachineError)
    assert "slow: the TPU compiler took longer than 0.05 s" in answer.error.message


@NEEDS_LIBTPU
def test_ctrl_c_ends_the_child() -> None:
    """An interrupt while answers come leaves no process behind."""

    def interrupt(_: Answer) -> None:
        raise KeyboardInterrupt

    job = CompileJob(label="a", recipe="no_such_module:f", slice="v5e:2x2", axes={"fsdp": 4})
    with pytest.raises(KeyboardInterrupt):
        compile_jobs([job, job], on_answer=interrupt)
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    left = [pid for one in children for pid in one.read_text().split()]
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
    assert not [one for one in commands if b"maas_sdk.tpu.child" in one]


@NEEDS_LIBTPU
def test_the_parent_never_loads_the_compiler(answers: dict[str, Answer]) -> None:
    """After all this, libtpu is in no process but the child."""
    assert answers
    assert "libtpu" not in sys.modules


def test_where_the_compiler_is_missing_the_line_that_installs_it_is_said(tmp_path: Path) -> None:
    """Nowhere, an empty folder, and another version: each with the exact command."""
    line = r"pip install --no-deps --target FOLDER 'libtpu==0\.0\.\d+\.\*'"
    assert wanted_version().startswith("0.0.")
    with pytest.raises(MachineError, match=line):
        find_libtpu({})
    with pytest.raises(MachineError, match=rf"no libtpu in that folder.*{line}"):
        find_libtpu({VARIABLE: str(tmp_path)})
    (tmp_path / "libtpu").mkdir()
    (tmp_path / "libtpu" / "libtpu.so").touch()
    newer = tmp_path / "libtpu-0.0.51.dist-info"
    newer.mkdir()
    (newer / "METADATA").write_text("Metadata-Version: 2.1\nName: libtpu\nVersion: 0.0.51\n")
    with pytest.raises(
        MachineError, match=rf"libtpu 0\.0\.51 .* compiles with libtpu 0\.0\.\d+.*{line}"
    ):
        find_libtpu({VARIABLE: str(tmp_path)})


@pytest.mark.slow
@NEEDS_LIBTPU
def test_the_command(tmp_path: Path) -> None:
    """`maas plan` prints one JSON document and writes a page."""
    page = tmp_path / "plan.html"
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from maas_sdk.cli import main; main()"),
            *("plan", "decoder-tiny", "--slice", "v5e:2x2", "--strategy", "tensor"),
            *("--batch-size", "4", "--sequence-length", "32", "--json", "--out", str(page)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["recommended"] == "tensor"
    assert document["plans"][0]["mesh"] == {"tensor": 4}
    assert "fits" in done.stderr
    assert "<svg" in page.read_text(encoding="utf-8")


@pytest.mark.slow
@NEEDS_LIBTPU
def test_the_pages_python(tmp_path: Path) -> None:
    """The block of docs/plan.md that needs the TPU compiler runs as it stands there."""
    page = (Path(__file__).parent.parent / "docs" / "plan.md").read_text(encoding="utf-8")
    [code] = re.findall(
        r"<!-- not run: needs the TPU compiler.*?-->\n```python\n(.*?)```", page, re.S
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"(data|tensor) \d+ \d+ 0\.\d+\n", done.stdout)


@NEEDS_LIBTPU
@pytest.mark.heavy
def test_eight_billion_parameters_on_sixteen_chips() -> None:
    """A training step of an 8B decoder from shapes alone: ten minutes and 16 GiB are enough."""
    jobs = make_jobs("llama3-8b", slice_="v5e:4x4", strategies=("fsdp",), rows=16)
    made: Comparison = plan(jobs, timeout_s=600)
    [one] = made.plans
    assert one.error is None
    assert one.fits is True
    assert made.recommended is one
    assert one.compile_s < 600
    assert one.peak_rss_bytes < 16 * 2**30
    # Weights and two moments in float32 of 8.03 billion parameters, on 16 chips.
    assert one.nbytes["weights"] == pytest.approx(4 * 8.03e9 / 16, rel=0.001)
    assert one.nbytes["optimizer"] == pytest.approx(2 * 4 * 8.03e9 / 16, rel=0.001)
    # FSDP's volume: weights gathered twice and gradients scattered, in bfloat16.
    assert one.moved_bytes == pytest.approx(3 * 2 * 8.03e9 * 15 / 16, rel=0.1)
    # 6 operations per parameter and token, attention, and the blocks computed again.
    assert one.model_flops == pytest.approx(16 * 2048 * 48.25e9, rel=0.01)
    assert one.model_flops < 16 * one.chip_flops < 4 / 3 * one.model_flops
    assert one.estimate is not None
    assert 0.2 < one.estimate.mfu < 0.6
