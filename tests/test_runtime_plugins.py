"""Accelerators: a real plugin drives this processor through the same door as a TPU or a GPU."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from maas_sdk.errors import ConfigError, ExportError, IncompatibleError
from maas_sdk.export import export
from maas_sdk.export.targets import names as targets
from maas_sdk.export.targets.names import TargetSpec
from maas_sdk.export.verification.answers import verify
from maas_sdk.runtime import load, plugins, xla
from tests.plugin import ARCH, LIBRARY, NEEDS_PLUGIN, PLATFORM

WEIGHTS = {"w": np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)}
ROWS = np.random.default_rng(1).normal(size=(3, 16)).astype(np.float32)
EXPECTED = np.tanh(ROWS @ WEIGHTS["w"])
TARGET = "plugin-cpu"


def apply(weights: Any, x: Any) -> Any:
    return jnp.tanh(x @ weights["w"])


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is named by the environment, as for a platform that we do not know."""
    monkeypatch.setenv(plugins.PLUGIN, str(LIBRARY))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with executables that the plugin compiled, and that nobody may change."""
    spec = TargetSpec(name=TARGET, arch=ARCH, platform=PLATFORM)
    path = tmp_path_factory.mktemp("plugin") / "model.maas"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(plugins.PLUGIN, str(LIBRARY))
        patch.setitem(targets.TARGETS, TARGET, spec)
        return export(
            apply, ROWS, weights=WEIGHTS, path=path, buckets=(1, 4), targets=[TARGET]
        ).path


@pytest.fixture
def compiled(exported: Path, tmp_path: Path, plugged: None) -> Path:
    """A copy of it."""
    return shutil.copytree(exported, tmp_path / "model.maas")


@NEEDS_PLUGIN
def test_executables_run_on_the_device(compiled: Path) -> None:
    """Exported, verified and answered through the plugin, at compiled and padded batch sizes."""
    with load(compiled, platform=PLATFORM, tier="executable") as engine:
        assert (engine.report.tier, engine.report.target) == ("executable", TARGET)
        engine.prime()
        for rows in (1, 3, 4):
            x = np.resize(ROWS, (rows, 16))
            np.testing.assert_allclose(engine.predict(x), np.tanh(x @ WEIGHTS["w"]), rtol=1e-5)
    assert verify(compiled).targets_run == (TARGET,)


@NEEDS_PLUGIN
def test_a_program_is_compiled_for_the_device_and_kept(plugged: None, tmp_path: Path) -> None:
    """Without a fitting executable: compiled by the plugin once, then taken from the cache, in a
    key of its own beside the processor's."""
    bundle = export(
        apply, ROWS, weights=WEIGHTS, path=tmp_path / "m.maas", buckets=(4,), targets=[]
    ).path
    cache = tmp_path / "cache"
    for entries in (1, 1):
        with load(bundle, platform=PLATFORM, cache_dir=cache) as engine:
            assert engine.report.tier == "program"
            np.testing.assert_allclose(engine.predict(ROWS), EXPECTED, rtol=1e-5)
        assert len(list(cache.iterdir())) == entries
    with load(bundle, platform="cpu", cache_dir=cache) as engine:
        np.testing.assert_allclose(engine.predict(ROWS), EXPECTED, rtol=1e-5)
    assert len(list(cache.iterdir())) == 2


@NEEDS_PLUGIN
def test_executables_that_the_driver_refuses(compiled: Path, tmp_path: Path) -> None:
    """The program is compiled instead, and the report says why; asked for, they are refused."""
    for file in (compiled / "executables" / TARGET).iterdir():
        file.write_bytes(b"of another driver")
    _seal_again(compiled)
    with load(compiled, platform=PLATFORM, cache_dir=tmp_path / "cache") as engine:
        assert engine.report.tier == "program"
        assert "XLA cannot load the executable" in engine.report.reason
        np.testing.assert_allclose(engine.predict(ROWS), EXPECTED, rtol=1e-5)
    with pytest.raises(IncompatibleError, match="XLA cannot load the executable"):
        load(compiled, platform=PLATFORM, tier="executable")


def _seal_again(bundle: Path) -> None:
    """Make the manifest agree with files that were changed."""
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    for path in manifest["files"]:
        data = (bundle / path).read_bytes()
        manifest["files"][path] = {
            "size_bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    (bundle / "manifest.json").write_text(json.dumps(manifest))


@NEEDS_PLUGIN
def test_every_kind_of_number_comes_back(plugged: None) -> None:
    """What goes to the device and is computed there has its dtype, shape and bytes on return."""
    client = xla.XlaClient(plugins.find_plugin(PLATFORM))
    for dtype in ("bool", "int8", "uint16", "int32", "float16", "float32", ml_dtypes.bfloat16):
        array = np.arange(6).reshape(2, 3).astype(dtype)
        kind = {"bool": "i1", "int8": "i8", "uint16": "ui16", "int32": "i32"}.get(
            str(dtype), {"float16": "f16", "float32": "f32"}.get(str(dtype), "bf16")
        )
        text = (
            f"func.func public @main(%x: tensor<2x3x{kind}>) -> tensor<3x2x{kind}> {{\n"
            f"  %y = stablehlo.transpose %x, dims = [1, 0] : (tensor<2x3x{kind}>) -> "
            f"tensor<3x2x{kind}>\n  return %y : tensor<3x2x{kind}>\n}}"
        )
        program = client.compile(xla.portable_artifact(text, "1.0.0"))
        (answer,) = program.run([client.put(array)], [((3, 2), array.dtype)])
        assert answer.dtype == array.dtype
        assert not answer.flags.writeable
        np.testing.assert_array_equal(answer, array.T)


LEAN = """
import sys
sys.modules["jax"] = None  # as where a model is served: not installed
import numpy as np
from maas_sdk.runtime import load
with load(sys.argv[1], platform="plugin", cache_dir=sys.argv[2]) as engine:
    engine.prime()
    print(engine.report.tier, engine.predict(np.ones((2, 16), np.float32)).shape)
"""


@NEEDS_PLUGIN
def test_without_jax(compiled: Path, tmp_path: Path) -> None:
    """jaxlib alone loads the plugin, the weights and the executables."""
    done = subprocess.run(
        [sys.executable, "-c", LEAN, compiled, tmp_path / "cache"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "executable (2, 8)", done.stderr


FORK = """
import os, sys
sys.modules["jax"] = None
import numpy as np
from maas_sdk.errors import ModelError
from maas_sdk.runtime.load import Prepared
prepared = Prepared(sys.argv[1], platform="plugin", cache_dir=sys.argv[2])
x = np.ones((2, 16), np.float32)
def answer():
    with prepared.load() as engine:
        return engine, engine.predict(x)
def in_a_child(work):
    child = os.fork()
    if not child:
        os._exit(work())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
# Many children may finish what one process prepared: there is no client in it yet.
assert [in_a_child(lambda: answer()[1].shape != (2, 8)) for _ in range(2)] == [0, 0]
engine = prepared.load()
def too_late():
    try:
        engine.predict(x)
    except ModelError as error:
        return 7 * ("forked from" in error.message)
    return 1
print(in_a_child(too_late), engine.predict(x).shape)
"""


@NEEDS_PLUGIN
def test_forks(compiled: Path, tmp_path: Path) -> None:
    """What is prepared before a fork is finished behind it; an engine made before it refuses."""
    done = subprocess.run(
        [sys.executable, "-c", FORK, compiled, tmp_path / "cache"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.strip() == "7 (2, 8)", done.stderr


@NEEDS_PLUGIN
def test_export_for_another_device_than_the_one_here(
    tmp_path: Path, plugged: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiling process sees what the device is, and no bundle is written."""
    spec = TargetSpec(name=TARGET, arch="sm90", platform=PLATFORM)
    monkeypatch.setitem(targets.TARGETS, TARGET, spec)
    with pytest.raises(ExportError, match="compiled for sm90, but the plugin device here is cpu"):
        export(apply, ROWS, weights=WEIGHTS, path=tmp_path / "m.maas", targets=[TARGET])
    assert not list(tmp_path.glob("*.maas"))


@NEEDS_PLUGIN
def test_functions_of_the_processor(plugged: None, tmp_path: Path) -> None:
    """A program that calls LAPACK is refused by name before anything is compiled."""

    def solve(weights: Any, x: Any) -> Any:
        return jnp.linalg.cholesky(x @ x.transpose(0, 2, 1) + weights["one"] * jnp.eye(3))

    path = tmp_path / "m.maas"
    export(
        solve, np.ones((2, 3, 3), np.float32), weights={"one": np.float32(1)}, path=path, targets=[]
    )
    with pytest.raises(IncompatibleError, match="lapack_spotrf_ffi, functions of the processor"):
        load(path, platform=PLATFORM)


def test_a_library_that_is_no_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused with its path and what to do."""
    library = tmp_path / "plugin.so"
    library.write_bytes(b"not a library")
    monkeypatch.setenv(plugins.PLUGIN, str(library))
    with pytest.raises(IncompatibleError, match=r"plugin\.so opens no device: .*platform='cpu'"):
        xla.XlaClient(plugins.find_plugin("broken"))
    monkeypatch.setenv(plugins.PLUGIN, str(tmp_path / "absent.so"))
    with pytest.raises(ConfigError, match=r"absent\.so: no such file"):
        plugins.find_plugin("broken")


def test_platforms_by_name() -> None:
    """An unknown one names those that are known; a known one without a device says so at once."""
    with pytest.raises(ConfigError, match=r"no platform 'npu': expected cpu, tpu, cuda"):
        plugins.find_plugin("npu", {})
    for platform, word in (("tpu", "TPU"), ("cuda", "GPU")):
        if plugins.has_device(platform):
            continue
        with pytest.raises(IncompatibleError, match=f"no {word} on this machine .*platform='cpu'"):
            plugins.find_plugin(platform, {})


def test_a_device_without_its_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Says which package drives it; with the package, its file is found and nothing imported."""
    device = tmp_path / "nvidia0"
    device.touch()
    monkeypatch.setattr(plugins, "_DEVICES", {"cuda": (str(device),)})
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(IncompatibleError, match=r"pip install 'maas-sdk\[cuda\]'"):
        plugins.find_plugin("cuda", {})
    assert plugins.wanted_platform(None, ["cpu", "cuda"], {}) == "cpu"
    files = [
        "jax_plugins/xla_cuda12/xla_cuda_plugin.so",
        "nvidia/cudnn/lib/libcudnn.so.9",
        "nvidia/cublas/lib/libcublas.so.12",
        "nvidia/cuda_nvcc/bin/ptxas",
    ]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    plugin = plugins.find_plugin("cuda", {})
    assert plugin.path == str(tmp_path / files[0])
    # cuDNN needs cuBLAS: it comes later.
    assert plugin.before == (str(tmp_path / files[2]), str(tmp_path / files[1]))
    assert plugin.cuda_data_dir == str(tmp_path / "nvidia/cuda_nvcc")
    assert plugin.options["preallocate"] is False
    assert plugins.wanted_platform(None, ["cpu", "cuda"], {}) == "cuda"
    assert plugins.wanted_platform(None, ["cpu"], {}) == "cpu"
    assert plugins.wanted_platform("cpu", ["cuda"], {plugins.PLATFORM: "cuda"}) == "cpu"
    assert plugins.wanted_platform(None, ["cpu"], {plugins.PLATFORM: "tpu"}) == "tpu"


def test_export_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    """Refused before anything is traced."""
    if plugins.has_device("cuda"):
        pytest.skip("this machine has a GPU")
    for target in ("cuda-sm90", "cuda"):
        with pytest.raises(ExportError, match=f"target {target}: no GPU on this machine"):
            export(apply, ROWS, weights=WEIGHTS, path=tmp_path / "m.maas", targets=[target])
