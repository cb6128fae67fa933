"""`maas plan`: from options to jobs, and what contradicts is said before anything compiles."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest
from typer.testing import CliRunner

from maas_sdk.cli.app import app
from maas_sdk.cli.study.plan import make_jobs
from maas_sdk.errors import ConfigError
from maas_sdk.plan.recipes import serve, train
from maas_sdk.sharding.mesh import make_mesh
from maas_sdk.tpu.memory import bytes_by_kind

MODEL = """
import numpy as np
from flax import nnx

rows = np.zeros((4, 12), np.float32)

def make_model():
    return nnx.Linear(12, 8, rngs=nnx.Rngs(0))
"""


def test_layouts_are_compared_when_none_is_named():
    """Four for training, each with the mesh that it takes; one row per chip."""
    jobs = make_jobs("llama3-8b", slice_="v5e:4x4")
    assert {job.label: dict(job.axes) for job in jobs} == {
        "data": {"data": 16},
        "fsdp": {"fsdp": 16},
        "tensor": {"tensor": 16},
        "fsdp+tensor": {"fsdp": 4, "tensor": 4},
    }
    assert {job.options["rows"] for job in jobs} == {16}
    assert {job.recipe for job in jobs} == {"maas_sdk.plan.recipes:train"}
    json.dumps([dict(job.options) for job in jobs])


def test_a_mesh_names_its_strategy():
    """Axes that weights are cut over; the older name of an axis is understood."""
    [job] = make_jobs("llama3-8b", slice_="v5e:4x4", mesh="model=2, fsdp=8")
    assert (job.label, list(job.axes.items())) == ("fsdp+tensor", [("fsdp", 8), ("tensor", 2)])
    [job] = make_jobs("llama3-8b", slice_="v5e:4x4", mesh="data=16", precision="int8")
    assert (job.label, job.options["precision"]) == ("data", "int8,bf16")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"step": "dance"}, "--step: expected train or serve, got 'dance'"),
        ({"precision": "int3"}, "--precision: expected bf16 or int8"),
        ({"remat": "some"}, "--remat: expected all or dots or none"),
        ({"mesh": "fsdp=x"}, "--mesh: expected AXIS=SIZE"),
        ({"mesh": "fsdp=2,fsdp=8"}, "--mesh: expected AXIS=SIZE"),
        ({"strategies": ("magic",)}, "unknown strategy 'magic'"),
        ({"slice_": "v5e:5"}, "wired in 2 dimensions"),
    ],
)
def test_contradictions_are_said_first(options, words):
    """Each names the option and what it takes."""
    with pytest.raises(ConfigError, match=words):
        make_jobs("llama3-8b", **{"slice_": "v5e:4x4", **options})


def test_without_a_compiler_the_command_says_how_to_get_one():
    """One sentence with the install line, exit code 1; with --json an object."""
    run = CliRunner()
    arguments = ["plan", "decoder-tiny", "--slice", "v5e:2x2", "--json"]
    done = run.invoke(app, arguments, env={"MAAS_LIBTPU": None})
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert document["code"] == "dependency_missing"
    assert "pip install --no-deps --target FOLDER 'libtpu==" in document["error"]


def test_a_model_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A factory and example inputs from a file: a training step and a forward pass, by shapes."""
    monkeypatch.chdir(tmp_path)
    Path("own_model.py").write_text(MODEL)
    mesh = make_mesh({"fsdp": 8})
    given = {"model": "own_model.py:make_model", "example": "own_model.py:rows", "length": 1}
    step = train(mesh, **given, strategy="fsdp", rows=16)
    assert step.model_flops == 3 * 2 * 16 * 12 * 8
    found = bytes_by_kind(step)
    # Automatic FSDP leaves small weights whole.
    assert found["weights"] == (12 * 8 + 8) * 4
    assert found["optimizer"] >= 2 * found["weights"]
    call = serve(mesh, **given, strategy="data", rows=16)
    assert bytes_by_kind(call)["weights"] == (12 * 8 + 8) * 2
    assert call.model_flops == 2 * 16 * 12 * 8
    with pytest.raises(ConfigError, match="decoders of Llama's shape only"):
        serve(mesh, **given, strategy="data", rows=16, phase="decode")
    with pytest.raises(ConfigError, match="planned for decoders"):
        serve(mesh, **given, strategy="data", rows=16, precision="int8")


def test_a_decoder_of_another_shape_is_served_by_its_own_module():
    """GPT-2's products, not a Llama's: two matrices a feed-forward layer, and the tied head."""
    changes = {"layers": 2, "vocab_size": 512}
    mesh = make_mesh({"data": 8})
    given = {"model": "gpt2", "strategy": "data", "rows": 8, "changes": changes}
    call = serve(mesh, length=64, **given)
    layer = 4 * 768 * 768 + 2 * 768 * 3072
    attention = 4 * 64 * 768
    assert call.model_flops == 8 * 64 * (2 * (2 * layer + attention) + 2 * 768 * 512)
    assert call.items == 8 * 64
    with pytest.raises(ConfigError, match="Llama's shape only"):
        serve(mesh, length=64, phase="decode", **given)


def test_no_array_is_made():
    """A recipe of an 8-billion-parameter model holds shapes alone, and takes seconds."""
    step = train(make_mesh({"fsdp": 8}), model="llama3-8b", strategy="fsdp", rows=8, length=128)
    kinds = bytes_by_kind(step)
    assert kinds["weights"] == pytest.approx(8.03e9 * 4 / 8, rel=1e-3)
    leaves = jax.tree.leaves(step.arguments)
    assert len(leaves) > 20
    assert {type(leaf) for leaf in leaves} == {jax.ShapeDtypeStruct}
