from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from maas_sdk.bundle.folder import open_bundle
from maas_sdk.errors import ExportError, IncompatibleError
from maas_sdk.export import export
from maas_sdk.export.targets import tpu as for_tpus
from maas_sdk.export.targets.names import default_targets
from maas_sdk.runtime import load
from maas_sdk.tpu.compiler import Answer, CompileJob
from maas_sdk.tpu.libtpu import VARIABLE

NEEDS_LIBTPU = pytest.mark.skipif(
    not os.environ.get(VARIABLE), reason=f"{VARIABLE} is not set; make test sets it"
)
WEIGHTS = {"w": np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)}
ROWS = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)


def apply(weights: Any, x: Any) -> Any:
    return jnp.tanh(x @ weights["w"])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program at two batch sizes for two kinds of TPU, and for no CPU."""
    return export(
        apply,
        ROWS,
        weights=WEIGHTS,
        path=tmp_path_factory.mktemp("tpu") / "model.maas",
        buckets=(1, 4),
        targets=["tpu-v5e-1", "tpu-v6e-1"],
    ).path


@NEEDS_LIBTPU
def test_executables_lie_in_the_bundle(bundle: Path) -> None:
    """Each chip has one per bucket, sealed like every file; the compiler's version is noted."""
    opened = open_bundle(bundle)
    opened.check()
    manifest = opened.manifest
    assert {name: (t.platform, t.arch) for name, t in manifest.targets.items()} == {
        "tpu-v5e-1": ("tpu", "v5e"),
        "tpu-v6e-1": ("tpu", "v6e"),
    }
    for target in manifest.targets:
        for bucket in (1, 4):
            assert manifest.files[f"executables/{target}/predict-b{bucket}.xla"].size_bytes > 1000
    assert manifest.producer["libtpu"].startswith("0.0.")


@NEEDS_LIBTPU
def test_a_host_without_a_tpu_takes_the_program(bundle: Path, tmp_path: Path) -> None:
    """It answers from StableHLO and says why; asked for the executable it refuses politely."""
    with load(bundle, cache_dir=tmp_path) as engine:
        assert engine.report.tier == "program"
        assert "made for tpu v5e, this machine is cpu" in engine.report.reason
        np.testing.assert_allclose(engine.predict(ROWS), np.tanh(ROWS @ WEIGHTS["w"]), rtol=1e-5)
    with pytest.raises(IncompatibleError, match="tpu-v6e-1 is made for tpu v6e"):
        load(bundle, tier="executable")


def test_nobody_gets_a_tpu_unasked() -> None:
    """Default targets are those of this machine's processor."""
    assert all(name.startswith("cpu-") for name in default_targets())


def test_without_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to get it, before anything is traced."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(ExportError, match=r"tpu-v5e-1: .*pip install .*libtpu=="):
        export(apply, ROWS, weights=WEIGHTS, path=tmp_path / "model.maas", targets=["tpu-v5e-1"])
    assert not (tmp_path / "model.maas").exists()


def test_a_program_that_does_not_fit_is_refused() -> None:
    """The compiler's own figures are in the sentence."""
    job = CompileJob(
        label="predict-b64 for tpu-v5e-1", recipe="", slice="v5e:1x1", axes={"chip": 1}
    )
    result = {"fits": False, "needs_bytes": 20 * 2**30, "limit_bytes": 16128 * 2**20}
    with pytest.raises(ExportError, match=r"needs 20,480 MiB, the chip offers 16,128"):
        for_tpus._check(Answer(job=job, result=result, error=None))
