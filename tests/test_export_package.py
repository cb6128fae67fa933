from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix
from flax import linen as nn
from flax import nnx

from maas_sdk import runtime
from maas_sdk.bundle.files.weights import open_weights
from maas_sdk.bundle.folder import Bundle, open_bundle
from maas_sdk.bundle.manifest import WEIGHTS, executable_path, golden_path, stablehlo_path
from maas_sdk.errors import ConfigError, ExportError
from maas_sdk.export import ProgramSpec, default_targets, export
from maas_sdk.export.verification.answers import verify

BEST = default_targets()[:1]
IMAGES = np.random.default_rng(0).random((5, 6, 6, 1), np.float32)


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(4, 3, rngs=rngs)

    def embed(self, image):
        return self.drop(nnx.relu(self.norm(self.conv(image)))).mean(axis=(1, 2))

    def __call__(self, image):
        return self.out(self.embed(image))


def exported(tmp_path, model, example, **options):
    options = {"buckets": (1, 4), "targets": BEST, **options}
    return export(model, example, path=tmp_path / "m.maas", **options)


def test_an_nnx_model_with_two_programs_and_all_targets(tmp_path):
    """One set of weights, two programs, every target of this machine: verified and as stated."""
    net = Net(nnx.Rngs(0))
    events = []
    bundle = exported(
        tmp_path,
        net,
        {"image": IMAGES},
        name="digits",
        programs={"predict": None, "embed": ProgramSpec(fn="embed", buckets=(2,))},
        targets=None,
        metadata={"accuracy": "0.9"},
        progress=events.append,
    )
    manifest = open_bundle(bundle.path).manifest
    bundle.check()
    predict, embed = manifest.programs["predict"], manifest.programs["embed"]
    assert (manifest.name, manifest.metadata) == ("digits", {"accuracy": "0.9"})
    assert {name: str(s) for name, s in predict.signature.inputs.items()} == {
        "image": "float32[B, 6, 6, 1]"
    }
    assert (predict.buckets, embed.buckets) == ((1, 4), (2,))
    assert predict.row_independent
    assert embed.row_independent
    assert set(predict.weights) - set(embed.weights) == {"out/bias", "out/kernel"}
    assert set(manifest.targets) == set(default_targets())
    assert predict.verification is not None
    assert set(predict.verification.targets_run) == set(default_targets())
    assert predict.verification.max_abs_error["output"] < 1e-4
    # What a run takes is measured for each bucket.
    for program in (predict, embed):
        assert program.verification is not None
        assert set(program.verification.run_s) == {str(b) for b in program.buckets}
        assert all(0 < took_s < 60 for took_s in program.verification.run_s.values())
    # Each target answers every bucket, and StableHLO the smallest one.
    assert predict.verification.rows == len(default_targets()) * (1 + 4) + 1
    for target in manifest.targets:
        assert executable_path(target, "embed", 2) in manifest.files
        done = [e.done for e in events if (e.stage, e.target) == ("compile", target)]
        assert done == [1, 2, 3]
    assert [e.message for e in events if e.warning] == [
        "BatchNorm, Dropout: in training mode, exported in evaluation mode"
    ]
    assert manifest.producer.keys() >= {"maas-sdk", "jax", "jaxlib", "flax"}
    golden = open_weights(bundle.path / golden_path("predict"))
    np.testing.assert_array_equal(golden["input/image"], IMAGES)
    expected = nnx.view(net, deterministic=True, use_running_average=True)(IMAGES)
    np.testing.assert_allclose(golden["output/output"], expected, rtol=1e-4, atol=1e-6)
    report = verify(bundle.path)
    assert report.ok
    assert set(report.targets_run) == set(default_targets())
    with runtime.load(bundle.path) as engine:
        answer = engine.predict(IMAGES)
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


def test_a_target_that_cannot_run_here_is_skipped_with_its_reason(tmp_path):
    """Verification on another machine runs what fits, and StableHLO in every bucket if nothing."""
    rows = np.ones((2, 4), np.float32)
    bundle = exported(tmp_path, lambda w, x: x * 2, rows, weights={}, verify=False)
    (name,) = bundle.manifest.targets
    foreign = bundle.manifest.targets[name]._replace(jaxlib="0.0.1+00000000")
    other = Bundle(bundle.path, replace(bundle.manifest, targets={name: foreign}))
    report = verify(other)
    assert report.ok
    assert report.targets_run == ()
    assert "compiled by jaxlib 0.0.1+00000000" in report.targets_skipped[name]
    assert {(check.target, check.bucket) for check in report.checks} == {
        ("stablehlo", 1),
        ("stablehlo", 4),
    }


def test_a_linen_model(tmp_path):
    """A linen module is exported with its variables as weights."""
    module = nn.Dense(3)
    x = np.ones((2, 4), np.float32)
    variables = module.init(jax.random.key(0), x)
    bundle = exported(tmp_path, module, x, weights=variables, buckets=(2,))
    assert bundle.manifest.programs["predict"].weights == ("params/bias", "params/kernel")
    report = verify(bundle, lambda inputs: module.apply(variables, inputs["input"]))
    assert report.ok
    assert all(check.max_abs_error < 1e-5 for check in report.checks)


def test_two_inputs_two_outputs_and_lapack(tmp_path):
    """Names keep arguments apart, whatever the order; custom calls run without jax."""

    def apply(weights, inputs):
        spread = inputs["a"][:, :, None] * inputs["a"][:, None] + jnp.eye(3)
        return {
            "root": jnp.linalg.cholesky(spread),
            "count": inputs["ids"].sum(axis=1) + weights["offset"].astype(jnp.int32),
        }

    example = {
        "ids": np.arange(6, dtype=np.int32).reshape(3, 2),
        "a": np.random.default_rng(0).random((3, 3), np.float32),
    }
    weights = {"offset": np.float32(7), "idle": np.ones(100, np.float32)}
    bundle = exported(tmp_path, apply, example, weights=weights)
    program = bundle.manifest.programs["predict"]
    assert program.custom_calls == ("lapack_spotrf_ffi",)
    assert list(program.signature.outputs) == ["count", "root"]
    assert program.weights == ("offset",)
    assert list(open_weights(bundle.path / WEIGHTS)) == ["offset"]


def test_an_int8_model_stays_int8(tmp_path):
    """qwix's weights are int8 in the bundle, and the tolerance is that of int8 arithmetic."""
    net = nnx.view(Net(nnx.Rngs(0)), deterministic=True, use_running_average=True)
    rules = [qwix.QuantizationRule(module_path="out", weight_qtype="int8")]
    quantized = qwix.quantize_model(net, qwix.PtqProvider(rules), IMAGES)
    bundle = exported(tmp_path, quantized, IMAGES, buckets=(2,))
    weights = open_weights(bundle.path / WEIGHTS)
    assert weights["out/kernel/array/qvalue"].dtype == np.int8
    assert bundle.manifest.programs["predict"].row_independent


def test_dependent_rows_are_exported_for_exact_batches_and_said(tmp_path, caplog):
    """Batch norm in training mode: no padding, no splitting; the manifest and the log say so."""

    def apply(weights, x):
        return (x - x.mean(axis=0)) * weights["scale"]

    rows = np.random.default_rng(0).random((3, 4), np.float32)
    bundle = exported(tmp_path, apply, rows, weights={"scale": np.ones(4, np.float32)})
    program = bundle.manifest.programs["predict"]
    assert not program.row_independent
    assert program.buckets == (1, 4)
    assert "exported for batches of exactly 1, 4 rows" in caplog.text
    golden = open_weights(bundle.path / golden_path("predict"))
    assert golden["input/input"].shape == (1, 4)
    assert verify(bundle).ok
    assert verify(bundle, lambda inputs: inputs["input"] - inputs["input"].mean(axis=0)).ok


def test_an_output_without_a_batch_dimension(tmp_path, caplog):
    """An answer about the batch as a whole cannot be padded or split."""
    rows = np.ones((3, 4), np.float32)
    bundle = exported(tmp_path, lambda w, x: {"sum": x.sum(), "x": x}, rows, weights={})
    program = bundle.manifest.programs["predict"]
    assert program.signature.outputs["sum"].shape == ()
    assert not program.row_independent
    assert "output 'sum' has no batch dimension" in caplog.text


def test_a_model_of_one_batch_size(tmp_path, caplog):
    """A model that only works for four rows is exported for four rows."""

    def apply(weights, x):
        return x.reshape(4, 3) * weights

    rows = np.ones((4, 3), np.float32)
    bundle = exported(tmp_path, apply, rows, weights=np.float32(2), buckets=(4,))
    program = bundle.manifest.programs["predict"]
    assert not program.row_independent
    assert program.weights == ("weights",)
    assert "cannot be traced at other batch sizes" in caplog.text


def test_bfloat16_in_and_out(tmp_path):
    """bfloat16 survives as input, weight and output, held to the tolerance of its 8 bits."""
    rows = np.asarray(jnp.ones((2, 4), jnp.bfloat16))
    weights = jnp.arange(8, dtype=jnp.bfloat16).reshape(4, 2)
    bundle = exported(tmp_path, lambda w, x: x @ w, rows, weights=weights, buckets=(2,))
    program = bundle.manifest.programs["predict"]
    assert str(program.signature.outputs["output"]) == "bfloat16[B, 2]"
    assert program.verification is not None
    assert program.verification.rtol == 2e-2


def test_a_callback_that_raises_ends_the_export(tmp_path):
    """What the user's own progress function raises comes out, and nothing is left."""

    def progress(event):
        if event.stage == "compile":
            raise RuntimeError("stop here")

    rows = np.ones((2, 4), np.float32)
    with pytest.raises(RuntimeError, match="stop here"):
        exported(tmp_path, lambda w, x: x, rows, weights={}, progress=progress)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_run_here(tmp_path):
    """What jax says when it runs the model is passed on."""
    rows = np.ones((2, 4), np.float32)

    def apply(weights, x):
        return jax.ffi.ffi_call("my_kernel", jax.ShapeDtypeStruct(x.shape, x.dtype))(x)

    with pytest.raises(ExportError, match=r"failed while it ran here.*my_kernel"):
        exported(tmp_path, apply, rows, weights={})
    assert list(tmp_path.iterdir()) == []


def test_references_that_do_not_fit(tmp_path):
    """A reference for a program, or with outputs, that the bundle does not have is refused."""
    rows = np.ones((2, 4), np.float32)
    bundle = exported(tmp_path, lambda w, x: {"y": x}, rows, weights={}, targets=(), verify=False)
    with pytest.raises(ExportError, match=r"no program \['embed'\]; has \['predict'\]"):
        verify(bundle, {"embed": lambda inputs: inputs})
    with pytest.raises(ExportError, match=r"expected the outputs \['y'\], got \['z'\]"):
        verify(bundle, lambda inputs: {"z": inputs["input"]})
    with pytest.raises(ExportError, match=r"the reference gives float32\[\]"):
        verify(bundle, lambda inputs: np.float32(0))


def test_stablehlo_only(tmp_path):
    """Without targets the bundle holds programs alone; all of their buckets are verified."""
    bundle = exported(tmp_path, lambda w, x: x @ w, np.ones((2, 4), np.float32),
                      weights=np.ones((4, 2), np.float32), targets=())  # fmt: skip
    assert bundle.manifest.targets == {}
    assert {check.bucket for check in verify(bundle).checks} == {1, 4}
    assert stablehlo_path("predict", 4) in bundle.manifest.files


def test_verification_that_fails_leaves_no_bundle(tmp_path):
    """The error names the output, the error and the place; nothing is at the path."""
    rows = np.ones((2, 4), np.float32)
    with pytest.raises(
        ExportError, match=r"output 'output': largest error \S+ at \[\d+, \d+\], allowed -1.*rtol="
    ):
        exported(
            tmp_path, lambda w, x: jnp.tanh(x), rows, weights={}, buckets=(2,), atol=-1.0, rtol=0.0
        )
    assert list(tmp_path.iterdir()) == []


def test_unverified_is_said(tmp_path):
    """``verify=False`` is recorded as an absent verification."""
    rows = np.ones((2, 4), np.float32)
    bundle = exported(tmp_path, lambda w, x: x + 1, rows, weights={}, buckets=(1,), verify=False)
    assert bundle.manifest.programs["predict"].verification is None
    report = verify(bundle, lambda inputs: inputs["input"] + 2)
    assert not report.ok
    with pytest.raises(ExportError, match=r"program 'predict' on .*largest error 1 at"):
        report.raise_for_failures()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "../evil"}, "'../evil' is not a name"),
        ({"programs": {"a/b": None}}, "'a/b' is not a name"),
        ({"programs": {}}, "exports nothing"),
        ({"buckets": (0,)}, "expected whole numbers ≥ 1, got 0"),
        ({"targets": ["gpu"]}, "unknown target 'gpu'"),
    ],
)
def test_bad_options(tmp_path, options, message):
    """Options are checked before the model is traced."""
    with pytest.raises(ExportError, match=message):
        exported(tmp_path, None, np.ones((1, 1), np.float32), **options)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_exists(tmp_path):
    """What is there is replaced only when asked."""
    (tmp_path / "m.maas").mkdir()
    with pytest.raises(ConfigError, match=r"exists already.*overwrite=True"):
        exported(tmp_path, None, np.ones((1, 1), np.float32))


FULL_DISK = """
import os, resource, signal, sys
import numpy as np
from maas_sdk.errors import MaasError
from maas_sdk.export import export
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
w = np.ones((100, 4), np.float32)
for limit in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        export(lambda w, x: x @ w["w"], np.ones((200, 100), np.float32), weights={"w": w},
               path=sys.argv[1], buckets=(1, 200))
    except MaasError as error:
        print(type(error).__name__, error, os.listdir(os.path.dirname(sys.argv[1])))
"""


def test_a_full_disk_at_any_step_of_an_export(tmp_path):
    """Weights, executables in a child, rows for the verification: each says so, none is kept.

    The limit on a file's size stands in for the full disk: same call, same path.
    """
    pytest.importorskip("resource", reason="needs a limit on the size of files")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "m.maas"), "300", "5000", "60000"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done
    for line in lines:
        assert re.match(r"(StorageError|ExportError) .*no room to write it", line)
        assert "free space on that disk, or write elsewhere" in line
        assert line.endswith(" []")
    assert "executables" in lines[1]
