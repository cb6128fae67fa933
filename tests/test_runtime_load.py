from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maas_sdk import runtime
from maas_sdk.bundle.encoding.encode import compose, compress_tensor, pack_bitmap, pack_codes
from maas_sdk.bundle.files.weights import open_weights, write_weights
from maas_sdk.bundle.manifest import (
    SCHEMA,
    WEIGHTS,
    executable_path,
    golden_path,
    stablehlo_path,
)
from maas_sdk.errors import CorruptError, ManifestError, ModelError, NotFoundError
from maas_sdk.export import default_targets, export
from maas_sdk.export.stablehlo import portable
from maas_sdk.model.adapt import Model
from maas_sdk.model.leaf import Leaf
from tests.kit.damage import flip

X = np.ones((2, 4), np.float32)
BEST = default_targets()[:1]

pytestmark = pytest.mark.skipif(not BEST, reason="nothing can be compiled ahead of time here")


def seal_again(bundle, path):
    """Make the manifest agree with a file that was changed."""
    data = (bundle / path).read_bytes()
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    entry = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest["files"][path] = entry
    (bundle / "manifest.json").write_text(json.dumps(manifest))


FILES = [
    WEIGHTS,
    stablehlo_path("predict", 4),
    executable_path(BEST[0] if BEST else "", "both", 2),
    golden_path("center"),
]


@pytest.mark.parametrize("check", ["before", "deferred"])
@pytest.mark.parametrize("path", FILES)
def test_a_cut_missing_extra_or_renamed_file(path, check, changed_bundle):
    """Refused before anything is loaded, naming the file; whichever way hashes are checked."""
    bundle = changed_bundle()
    file = bundle / path
    whole = file.read_bytes()
    name = path.replace(".", r"\.")
    file.write_bytes(whole[:-1])
    with pytest.raises(CorruptError, match=f"{name}: expected {len(whole)} bytes, found "):
        runtime.load(bundle, check=check)
    file.unlink()
    with pytest.raises(CorruptError, match=f"missing {name}; expected the"):
        runtime.load(bundle, check=check)
    file.with_name("renamed").write_bytes(whole)
    with pytest.raises(CorruptError, match=rf"missing {name}; .*among them unlisted: .*renamed"):
        runtime.load(bundle, check=check)
    file.write_bytes(whole)
    with pytest.raises(CorruptError, match=r"found .*renamed, expected only"):
        runtime.load(bundle, check=check)


@pytest.mark.parametrize("path", FILES)
def test_a_flipped_bit_anywhere(path, changed_bundle):
    """One bit in any file, and the hash is compared before the file is used."""
    bundle = changed_bundle()
    flip(bundle / path)
    with pytest.raises(CorruptError, match=f"{path}: expected sha256 [0-9a-f]+, found"):
        runtime.load(bundle)


def test_code_is_hashed_before_it_runs_even_when_checks_are_deferred(changed_bundle, tmp_path):
    """A flipped executable or program is never handed to XLA; later buckets too."""
    bundle = changed_bundle()
    for path in (
        executable_path(BEST[0], "predict", 1),
        executable_path(BEST[0], "predict", 4),
        stablehlo_path("predict", 1),
    ):
        flip(bundle / path, -1)
    with pytest.raises(CorruptError, match=r"predict-b1.xla: expected sha256"):
        runtime.load(bundle, check="deferred")
    with pytest.raises(CorruptError, match=r"predict-b1.stablehlo: expected sha256"):
        runtime.load(bundle, check="deferred", tier="program", cache_dir=tmp_path / "cache")
    flip(bundle / executable_path(BEST[0], "predict", 1), -1)
    engine = runtime.load(bundle, check="deferred")
    assert engine.predict(X).shape == (2, 3)
    with pytest.raises(CorruptError, match=r"predict-b4.xla: expected sha256"):
        engine.predict(np.ones((4, 4), np.float32))


def test_weights_found_wrong_after_the_start_stop_the_engine(changed_bundle):
    """check="deferred": flipped weights may answer first, then every call is refused."""
    bundle = changed_bundle()
    flip(bundle / WEIGHTS, -1)
    engine = runtime.load(bundle, check="deferred")

    def call_until(deadline):
        while time.monotonic() < deadline:
            engine.predict(X)
            time.sleep(0.01)

    with pytest.raises(CorruptError, match=f"{WEIGHTS}: expected sha256"):
        call_until(time.monotonic() + 60)
    with pytest.raises(CorruptError, match=f"{WEIGHTS}: expected sha256"):
        engine.predict(X)


def test_right_weights_go_on_answering(tiny_bundle):
    """check="deferred" on a whole bundle: the check passes unnoticed."""
    with runtime.load(tiny_bundle, check="deferred") as engine:
        deadline = time.monotonic() + 60
        while any(isinstance(thread, threading.Timer) for thread in threading.enumerate()):
            assert time.monotonic() < deadline, "the check behind the answers does not end"
            assert engine.predict(X).shape == (2, 3)
            time.sleep(0.01)
        assert engine.predict(X).shape == (2, 3)


def test_a_manifest_of_a_newer_schema(changed_bundle):
    """Says which schema it is and which one is read."""
    bundle = changed_bundle(lambda document: document.update(schema=SCHEMA + 1))
    with pytest.raises(ManifestError, match=rf"schema {SCHEMA + 1}.*pip install --upgrade maas"):
        runtime.load(bundle)


def test_a_weight_that_the_file_does_not_hold(changed_bundle):
    """A manifest that names a weight which is not stored is refused by the weight's name."""
    bundle = changed_bundle(lambda d: d["programs"]["predict"]["weights"].append("ghost"))
    with pytest.raises(CorruptError, match="names the weight 'ghost', which weights"):
        runtime.load(bundle)


class Encoded:
    """x @ (a + b + c + d): four weights, each stored encoded in another way."""

    def __init__(self):
        rng = np.random.default_rng(0)
        values = rng.normal(size=(4, 64)).astype(np.float32)
        codes = rng.integers(0, 16, (4, 64))
        f32 = {"dtype": "float32", "shape": (4, 64)}
        parts = {"codes": codes.astype(np.int8), "scale": values[:, :2]}
        packed = {"codes": pack_codes("b/codes", codes, bits=4), "codebook": values[0, :16]}
        self.weights = [
            compose("a", "scaled", parts, **f32),
            compose("b", "codebook", packed, **f32),
            pack_bitmap("c", np.where(values > 0, values, np.float32(0))),
            compress_tensor("d", values.round(1)),
        ]

    def as_model(self):
        leaves = tuple(
            Leaf(name=form.name, value=jax.ShapeDtypeStruct((4, 64), jnp.float32), stored=form)
            for form in self.weights
        )
        return Model(kind="apply", leaves=leaves, rebuild=tuple, apply=self.apply)

    def apply(self, weights, x):
        return sum(x @ weight for weight in weights)


@pytest.fixture(scope="module")
def encoded_bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoded") / "encoded.maas"
    return export(Encoded(), X, path=path, buckets=(1, 4), targets=BEST).path


DECODE = """
import sys
import numpy as np
from maas_sdk import runtime
with runtime.load(sys.argv[1], check=sys.argv[2]) as engine:
    np.save(sys.argv[3], engine.predict(np.ones((2, 4), np.float32)))
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"jax", "flax", "zstandard"}))
print(*(name for name in sys.modules if name == "maas_sdk.bundle.encoding"))
"""


@pytest.mark.parametrize("check", ["before", "deferred"])
def test_encoded_weights_answer_like_plain_ones(check, encoded_bundle, tmp_path):
    """In a fresh process, without jax: the very bits of a bundle that has the weights decoded."""
    model = Encoded()
    weights = [form.decode() for form in model.weights]
    plain = export(
        model.apply, X, weights=weights, path=tmp_path / "m.maas", buckets=(1, 4), targets=BEST
    )
    answers = []
    for folder, modules in (
        (encoded_bundle, ["zstandard", "maas_sdk.bundle.encoding"]),
        # A plain bundle does not even load what decodes.
        (plain.path, ["", ""]),
    ):
        done = subprocess.run(
            [sys.executable, "-c", DECODE, str(folder), check, str(tmp_path / "y.npy")],
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        assert done.stdout.splitlines() == modules
        answers.append(np.load(tmp_path / "y.npy"))
    assert answers[0].tobytes() == answers[1].tobytes()


@pytest.mark.parametrize(
    ("tensors", "change", "message"),
    [
        ({"b/codebook": np.ones((2, 8), np.float32)}, None, r"'b': codebook: expected \[K\], or"),
        ({"b/codebook": np.ones(15, np.float32)}, None, "'b': codes: expected each below the code"),
        ({"a/scale": np.ones((4, 3), np.float32)}, None, "'a': scale: expected sizes that divide"),
        ({"c/mask": np.zeros(32, np.uint8)}, None, "'c': values: expected 0, as many as the mask"),
        ({"d/data": np.zeros(90, np.uint8)}, None, "'d': zstd: expected a stream of 1024 bytes"),
        ({}, lambda d: d["encodings"]["b"].update(scheme="magic"), "'b': scheme: expected one of"),
        ({}, lambda d: d["encodings"]["a"]["parts"].update(scale="e"), "'a': scale: .*named 'e'"),
        # One that no program takes is not decoded, but is checked all the same.
        ({}, lambda d: d["encodings"].update(z={**d["encodings"]["a"], "dtype": "int8"}), "'z': "),
    ],
)
def test_encoded_weights_that_do_not_fit(tensors, change, message, encoded_bundle, tmp_path):
    """Sealed with right hashes, and still refused, naming the tensor."""
    bundle = shutil.copytree(encoded_bundle, tmp_path / "changed.maas")
    (bundle / WEIGHTS).unlink()
    write_weights(bundle / WEIGHTS, {**open_weights(encoded_bundle / WEIGHTS), **tensors})
    seal_again(bundle, WEIGHTS)
    document = json.loads((bundle / "manifest.json").read_bytes())
    if change is not None:
        change(document)
    (bundle / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(CorruptError, match=f"tensor {message}"):
        runtime.load(bundle)


def test_nothing_there(tmp_path):
    """A wrong path is said as such."""
    with pytest.raises(NotFoundError, match=r"no bundle at .*nowhere"):
        runtime.load(tmp_path / "nowhere")


@pytest.mark.parametrize("tier", ["executable", "program"])
def test_priming(tier, tiny_bundle, tmp_path):
    """Golden inputs of every program are answered as the exporting machine answered them."""
    with runtime.load(tiny_bundle, tier=tier, cache_dir=tmp_path) as engine:
        engine.prime()
        assert set(engine.report.timings_s) >= {"bundle", "client", "weights", "executable"}
        assert engine.report.copied_weights == ()


@pytest.mark.parametrize("wrong", [1.5, np.nan])
def test_priming_detects_another_answer(wrong, changed_bundle):
    """A golden output that this machine does not reproduce names program and output."""
    bundle = changed_bundle()
    path = golden_path("predict")
    tensors = {name: np.array(array) for name, array in open_weights(bundle / path).items()}
    tensors["output/y"][0, 0] += wrong
    write_weights(bundle / path, tensors)
    seal_again(bundle, path)
    engine = runtime.load(bundle)
    with pytest.raises(
        ModelError, match=r"program 'predict', output 'y': a golden input is answered \S+ off"
    ):
        engine.prime()


def test_a_flipped_golden_file_when_checks_are_deferred(changed_bundle):
    """Its hash is compared before it is believed."""
    bundle = changed_bundle()
    flip(bundle / golden_path("predict"), -1)
    with pytest.raises(CorruptError, match=r"golden/predict.safetensors: expected sha256"):
        runtime.load(bundle, check="deferred").prime()


def test_a_program_with_complex_numbers(tmp_path):
    """Complex outputs are primed without losing their imaginary part."""

    def apply(weights, x):
        return jnp.linalg.eigh(x + 1j * weights["a"])[1]

    a = np.array([[0, 1], [-1, 0]], np.float32)
    x = np.array([[[2, 1], [1, 3]]], np.float32)
    bundle = export(
        apply, x, path=tmp_path / "m.maas", weights={"a": a}, buckets=(1,), targets=BEST
    )
    with runtime.load(bundle.path) as engine:
        engine.prime()
        np.testing.assert_allclose(engine.predict(x), apply({"a": a}, x), atol=1e-5)


LINALG: dict[str, Callable[..., Any]] = {
    "cholesky": jnp.linalg.cholesky,
    "eigh": lambda a: tuple(jnp.linalg.eigh(a)),
    "svd": lambda a: jnp.linalg.svd(a, compute_uv=False),
    "qr": lambda a: tuple(jnp.linalg.qr(a)),
    "solve": lambda a: jnp.linalg.solve(a, a[0]),
    "inv": jnp.linalg.inv,
    "eig": jnp.linalg.eigvals,
    "triangular": lambda a: jax.scipy.linalg.solve_triangular(a, a[0], lower=True),
}

RUN_LINALG = """
import json, sys
import numpy as np
from maas_sdk.runtime import xla
folder = sys.argv[1]
client = xla.XlaClient()
a = np.load(folder + "/a.npy")
for name, job in json.load(open(folder + "/jobs.json")).items():
    xla.register_custom_calls(job["calls"])
    specs = [(tuple(shape), np.dtype(dtype)) for shape, dtype in job["outputs"]]
    program = client.load(client.compile(open(folder + "/" + name, "rb").read()).serialize())
    np.savez(folder + "/" + name + ".npz", *program.run([client.put(a)], specs))
assert not {"jax", "flax"} & set(sys.modules), "jax was imported"
"""


def test_linear_algebra_runs_without_jax(tmp_path):
    """LAPACK's functions that jaxlib ships are found by a process that never imports jax."""
    a = np.array([[4, 1, 0], [1, 3, 1], [0, 1, 5]], np.float32)
    np.save(tmp_path / "a.npy", a)
    jobs, expected = {}, {}
    for name, fn in LINALG.items():
        jitted = jax.jit(fn)
        program = portable(jitted.lower(a).compiler_ir("stablehlo"), where=name)
        (tmp_path / name).write_bytes(program.data)
        expected[name] = [np.asarray(leaf) for leaf in jax.tree.leaves(jitted(a))]
        outputs = [(leaf.shape, leaf.dtype.name) for leaf in expected[name]]
        jobs[name] = {"calls": program.custom_calls, "outputs": outputs}
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    subprocess.run([sys.executable, "-c", RUN_LINALG, str(tmp_path)], check=True, timeout=120)
    assert any(job["calls"] for job in jobs.values())
    for name, wanted in expected.items():
        with np.load(tmp_path / f"{name}.npz") as found:
            for array, leaf in zip(found.values(), wanted, strict=True):
                np.testing.assert_allclose(array, leaf, rtol=1e-4, atol=1e-5, err_msg=name)


WEIGH = """
import json, sys
import numpy as np
from maas_sdk import runtime
def kib(field):
    lines = dict(line.split(":", 1) for line in open("/proc/self/smaps_rollup") if ":" in line[:20])
    return int(lines[field].split()[0])
runtime.load(sys.argv[1])  # libraries, threads, arenas
before = {name: kib(name) for name in ("Anonymous", "Rss")}
engine = runtime.load(sys.argv[2], check=sys.argv[3])
x = np.ones((3, 5000), np.float32)
assert engine.predict(x)[0, 0] == engine.predict(x, program="again")[0, 0] == 5000
print(json.dumps({name: (kib(name) - value) / 1024 for name, value in before.items()}))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux's smaps")
def test_weights_are_in_memory_once(tiny_bundle, tmp_path):
    """100 MB of weights: mapped pages of the file, none of the process's own, for two programs."""
    bundle = export(
        lambda weights, x: x @ weights["w"],
        np.ones((1, 5000), np.float32),
        path=tmp_path / "large.maas",
        weights={"w": np.ones((5000, 5000), np.float32)},
        programs={"predict": None, "again": None},
        buckets=(1, 4),
        targets=BEST,
        verify=False,
    )
    for check in ("before", "deferred"):
        done = subprocess.run(
            [sys.executable, "-c", WEIGH, str(tiny_bundle), str(bundle.path), check],
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        grown_mib = json.loads(done.stdout)
        assert grown_mib["Anonymous"] < 24
        assert 90 < grown_mib["Rss"] < 96 + 24
