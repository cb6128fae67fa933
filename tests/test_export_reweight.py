from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.monitoring
import numpy as np
import pytest
from flax import linen, nnx

from maas_sdk.bundle import open_bundle, open_weights
from maas_sdk.bundle.manifest import WEIGHTS, golden_path
from maas_sdk.errors import ConfigError, CorruptError, ExportError
from maas_sdk.export import default_targets, export
from maas_sdk.export.reweight import reweight
from maas_sdk.runtime import load
from maas_sdk.store.opening import LocalStore

X = np.random.default_rng(0).random((3, 4), np.float32)


class Net(nnx.Module):
    """Weights, statistics that are exported, and a random stream that is not."""

    def __init__(self, seed: int, width: int = 3) -> None:
        rngs = nnx.Rngs(seed)
        self.hidden = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.dropout(nnx.relu(self.norm(self.hidden(x)))))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    bundle = export(
        Net(0),
        X,
        path=folder / "net.maas",
        name="net",
        buckets=(1, 4),
        targets=default_targets()[:1],
        metadata={"run": "1"},
    )
    return bundle.path


@pytest.fixture
def store(first: Path, tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "store")
    store.publish(first, "net")
    return store


def in_eval(model: Any) -> Any:
    model.eval()
    return model


_WATCHES: list[list[str]] = []


def _tell(what: str) -> None:
    for seen in _WATCHES:
        seen.append(what)


# Neither kind of listener can be taken away again: they are quiet unless somebody watches.
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _seconds, **_: _tell(event) if "compile" in event else None
)
sys.addaudithook(
    lambda event, arguments: (
        _tell(f"{event} {arguments[0]}")
        if event in ("subprocess.Popen", "os.fork", "os.posix_spawn")
        else None
    )
)


@contextmanager
def watched() -> Iterator[list[str]]:
    """Every compilation of jax, and every process that is started."""
    seen: list[str] = []
    _WATCHES.append(seen)
    try:
        yield seen
    finally:
        _WATCHES.remove(seen)


def test_the_watch_sees() -> None:
    """A compilation and a process are told of."""
    with watched() as seen:
        jax.jit(lambda x: x * 3 + len(seen))(X)
        subprocess.run([sys.executable, "-c", ""], check=True)
    assert any("compile" in event for event in seen)
    assert any(event.startswith("subprocess.Popen") for event in seen)


def test_other_weights_beside_the_same_programs(store: LocalStore) -> None:
    """Version 2 answers as the new model; every program and executable is byte for byte the old."""
    model = in_eval(Net(7))
    expected = np.asarray(model(X))
    with watched() as seen:
        new = reweight(store.resolve("net"), model, metadata={"run": "2"})
    assert seen == []

    assert new.path == store.root / "net" / "2"
    assert store.versions("net") == ["1", "2"]
    old = open_bundle(store.root / "net" / "1")
    changed = {
        name for name, entry in new.manifest.files.items() if old.manifest.files[name] != entry
    }
    assert changed == {WEIGHTS, golden_path("predict")}
    assert new.manifest.files.keys() == old.manifest.files.keys()
    new.check()
    with load(new.path) as engine:
        assert engine.report.tier == "executable"
        np.testing.assert_allclose(engine.predict(X), expected, rtol=1e-5, atol=1e-6)
        engine.prime()
    golden = open_weights(new.path / golden_path("predict"))
    np.testing.assert_allclose(golden["output/output"], expected, rtol=1e-5, atol=1e-6)
    with load(old.path) as engine:  # the old version is what it was
        engine.prime()
        assert not np.allclose(engine.predict(X), expected)


def test_the_manifest_says_what_was_done(store: LocalStore) -> None:
    """Where it comes from, its own words, and that nothing was compared."""
    new = reweight(store.resolve("net"), Net(7), metadata={"run": "2"})
    manifest = open_bundle(new.path).manifest
    assert manifest == new.manifest
    assert manifest.metadata["run"] == "2"
    assert manifest.metadata["reweighted_from"].startswith("sha256:")
    verification = manifest.programs["predict"].verification
    assert verification is not None
    assert (verification.rows, verification.rtol > 0) == (0, True)


def test_a_path_may_be_given(first: Path, tmp_path: Path) -> None:
    """Outside a store the new bundle needs a place; a place that is taken is not touched."""
    with pytest.raises(ConfigError, match=r"is no version of a store.*say with path="):
        reweight(first, Net(1))
    new = reweight(open_bundle(first), Net(1), path=tmp_path / "new.maas")
    assert new.path == tmp_path / "new.maas"
    with pytest.raises(ConfigError, match="exists already"):
        reweight(first, Net(2), path=tmp_path / "new.maas")
    assert open_bundle(tmp_path / "new.maas").manifest == new.manifest


@pytest.mark.parametrize("kind", ["names", "linen", "apply"])
def test_weights_in_any_form_that_export_takes(kind: str, tmp_path: Path) -> None:
    """Arrays by their names in the bundle, linen variables, the pytree of an apply function."""
    old = {"params": {"kernel": np.ones((4, 2), np.float32), "bias": np.zeros(2, np.float32)}}
    new = {"params": {"kernel": np.eye(4, 2, dtype=np.float32), "bias": np.ones(2, np.float32)}}
    module: Any = linen.Dense(2)

    def apply(weights: Any, x: Any) -> Any:
        return x @ weights["params"]["kernel"] + weights["params"]["bias"]

    model = apply if kind == "apply" else module
    export(model, X, path=tmp_path / "old.maas", weights=old, buckets=(4,), targets=())
    flat = {f"params/{name}": array for name, array in new["params"].items()}
    made = reweight(
        tmp_path / "old.maas", flat if kind == "names" else new, path=tmp_path / "new.maas"
    )
    with load(made.path, cache_dir=tmp_path / "cache") as engine:
        np.testing.assert_allclose(engine.predict(X), apply(new, X), rtol=1e-6)


def test_what_does_not_fit_is_named(first: Path, tmp_path: Path) -> None:
    """The tensor, what the bundle has, what came; and nothing is written."""
    target = tmp_path / "new.maas"
    with pytest.raises(ExportError) as caught:
        reweight(first, Net(1, width=5), path=target)
    assert (
        "tensor 'head/kernel': expected float32[8, 3], got float32[8, 5]" in (caught.value.message)
        or "'head/bias': expected float32[3], got float32[5]" in caught.value.message
    )
    assert len(caught.value.evidence["faults"]) == 2  # type: ignore[arg-type]
    weights = dict(open_weights(first / WEIGHTS))
    del weights["hidden/bias"]
    with pytest.raises(ExportError, match=r"'hidden/bias': expected float32\[8\], it is not there"):
        reweight(first, weights, path=target)
    half = {n: a.astype(np.float16) for n, a in open_weights(first / WEIGHTS).items()}
    with pytest.raises(ExportError, match=r"got float16\[3\].*; and 3 more\. Give the model"):
        reweight(first, half, path=target)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_has_diverged_is_not_published(store: LocalStore) -> None:
    """NaN in the answers of golden inputs is found before the version exists."""
    model = Net(1)
    model.head.bias[...] = np.full(3, np.nan, np.float32)
    with pytest.raises(ExportError, match=r"program 'predict' answers golden inputs with NaN"):
        reweight(store.resolve("net"), model)
    assert store.versions("net") == ["1"]
    assert [p.name for p in (store.root / "net").iterdir()] == ["1"]


def test_a_damaged_bundle_is_not_built_upon(first: Path, tmp_path: Path) -> None:
    """What is taken over is hashed on the way."""
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    file = next((copy / "executables").rglob("*.xla"))
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptError, match=file.name):
        reweight(copy, Net(1), path=tmp_path / "new")
    assert not (tmp_path / "new").exists()
