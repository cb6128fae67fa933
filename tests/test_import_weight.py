"""What a process loads, weighed in fresh processes: start-up time is made of imports."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from maas_sdk.bundle.seal import seal_bundle

WORKSHOP = {"jax", "flax", "optax", "orbax", "qwix", "grain", "httpx", "sklearn"}
SERVER = {
    *("jaxlib", "scipy", "flask", "werkzeug", "functions_framework", "gunicorn", "uvicorn"),
    *("starlette", "maas_sdk.runtime", "maas_sdk.serve", "maas_sdk.bundle"),
}
# Slow modules of the standard library that nothing on the way to a first answer needs.
SLOW = {"asyncio", "zipfile", "tempfile", "secrets", "random", "multiprocessing", "unittest"}

REPORT = "import json, sys; print(json.dumps(sorted(sys.modules)))"


def loaded_by(code: str, *arguments: object) -> set[str]:
    """Modules of a fresh process after it ran ``code``."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{REPORT}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


# What the interpreter itself loads, with whatever the environment hangs into its start.
@pytest.fixture(scope="module")
def nothing() -> set[str]:
    return loaded_by("")


LOAD = """
import sys
import numpy as np
from maas_sdk import runtime
engine = runtime.load(sys.argv[1], tier=sys.argv[2], check="deferred", cache_dir=sys.argv[3])
engine.prime()
x = np.ones((3, 4), np.float32)
assert engine.predict(x).shape == (3, 3)
"""

SERVE = """
import sys
import numpy as np
from maas_sdk.serve import Endpoint, ModelHost, Request
from maas_sdk.wire.frames import CONTENT_TYPE, Call, decode_results, encode_calls

def load():
    from maas_sdk import runtime
    return runtime.load(sys.argv[1], check="deferred")

endpoint = Endpoint(ModelHost(load))
calls = encode_calls([Call(id="0", inputs={"x": np.ones((3, 4), np.float32)})])
response = endpoint.handle(Request(
    "POST", "/v1/models/tiny:predict", {"content-type": CONTENT_TYPE}, b"".join(calls)
))
assert response.status == 200, response
(result,) = decode_results(b"".join(response.body))
assert result.outputs["y"].shape == (3, 3)
"""


def test_the_package_itself_imports_nothing(nothing):
    """Import maas_sdk brings one module, its own."""
    assert loaded_by("import maas_sdk") - nothing == {"maas_sdk"}


def test_the_runtime_is_light(nothing):
    """Numpy and jaxlib, and nothing of jax."""
    new = loaded_by("import maas_sdk.runtime") - nothing
    assert not new & {*WORKSHOP, *SLOW, "ml_dtypes", "scipy", "msgpack", "jaxlib.mlir"}
    top = {name.partition(".")[0] for name in new} - sys.stdlib_module_names
    assert top == {"maas_sdk", "numpy", "jaxlib"}


def test_batch_prediction_is_the_runtime_and_no_more(nothing):
    """No jax, no client, and no package of an optional kind of file before one comes."""
    new = loaded_by("import maas_sdk.batch, maas_sdk.batch.event") - nothing
    top = {name.partition(".")[0] for name in new} - sys.stdlib_module_names
    assert top == {"maas_sdk", "numpy", "jaxlib"}


@pytest.mark.parametrize("tier", ["executable", "program"])
def test_a_first_prediction_without_jax(tier, tiny_bundle, tmp_path):
    """Loading, custom calls, golden inputs and a prediction, in both tiers: no jax, no workshop."""
    found = loaded_by(LOAD, tiny_bundle, tier, tmp_path)
    assert not found & WORKSHOP
    # The compiler's bindings are for the program tier alone.
    assert ("jaxlib.mlir" in found) == (tier == "program")


# What a bundle that is neither signed nor encrypted never needs.
SEAL = {
    "cryptography",
    *(f"maas_sdk.bundle.{name}" for name in ("crypto", "encryption", "keys", "seal", "signature")),
}


def test_a_seal_that_nobody_asks_for_costs_nothing(tiny_bundle, tmp_path, monkeypatch):
    """Plain or signed, without trusted keys: neither cryptography nor what uses it is loaded."""
    monkeypatch.setenv("SIGNING_KEY", f"ed25519-private:{'A' * 43}=")
    signed = seal_bundle(tiny_bundle, tmp_path / "signed.maas", sign="env:SIGNING_KEY").path
    for bundle in (tiny_bundle, signed):
        assert not loaded_by(LOAD, bundle, "executable", tmp_path) & SEAL


def test_a_sealed_bundle_brings_cryptography_alone(tiny_bundle, tmp_path, monkeypatch):
    """With keys of the environment: no HTTP client, nothing that writes bundles."""
    monkeypatch.setenv("MODEL_KEY", f"aes256:{'A' * 43}=")
    monkeypatch.setenv("SIGNING_KEY", f"ed25519-private:{'A' * 43}=")
    sealed = seal_bundle(
        tiny_bundle, tmp_path / "sealed.maas", sign="env:SIGNING_KEY", encrypt="env:MODEL_KEY"
    )
    monkeypatch.setenv("MAAS_TRUSTED_KEYS", "ed25519:O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik=")
    found = loaded_by(LOAD, sealed.path, "executable", tmp_path)
    assert {"cryptography", "maas_sdk.bundle.signature"} <= found
    unwanted = {"urllib.request", "ssl", "http.client", "maas_sdk.bundle.seal", "shutil"}
    assert (found - loaded_by("import scipy.linalg")) & unwanted == set()


def test_a_first_served_answer_without_jax(tiny_bundle):
    """From an HTTP request's bytes to its answer's: no jax, no client, no web framework."""
    found = loaded_by(SERVE, tiny_bundle)
    unwanted = {*WORKSHOP, *SLOW, "flask", "uvicorn", "maas_sdk.client", "jaxlib.mlir"}
    # A program of the bundle calls LAPACK, which is scipy's.
    assert (found - loaded_by("import scipy.linalg")) & unwanted == set()


# What knows stores, which a bundle's folder is read without.
STORES = {
    *("cache", "garbage_collection", "gcs", "labels", "local", "model_index", "objects"),
    *("model_indexes", "opening", "reference", "remote", "transfer"),
}


@pytest.mark.parametrize("command", ["inspect", "verify", "predict", "batch"])
def test_a_command_on_a_folder_knows_no_store(command, nothing, tiny_bundle, tmp_path):
    """That a model in a store would do costs a folder nothing: neither stores nor Google's code."""
    np.save(tmp_path / "rows.npy", np.ones((3, 4), np.float32))
    more = {
        "predict": [tmp_path / "rows.npy"],
        "batch": [tmp_path / "rows.npy", "--out", tmp_path / "out", "--format", "npz"],
    }
    code = (
        "import sys\nfrom maas_sdk.cli.app import app\n"
        "app([*sys.argv[1:], '--json'], standalone_mode=False)"
    )
    found = loaded_by(code, command, tiny_bundle, *more.get(command, []))
    assert not found & {f"maas_sdk.store.{name}" for name in STORES}
    assert not {name for name in found - nothing if name.startswith("google.")}


def test_the_client_is_light(nothing):
    """Neither jax nor anything of a server: httpx and what it brings, numpy and msgpack."""
    new = loaded_by("import maas_sdk.client") - nothing
    assert not new & {*WORKSHOP - {"httpx"}, *SERVER, "ml_dtypes"}
    brought = loaded_by("import httpx, numpy, msgpack")
    more = {name.partition(".")[0] for name in new - brought} - sys.stdlib_module_names
    assert more == {"maas_sdk"}


@pytest.mark.parametrize("module", ["wire.frames", "bundle", "tensors", "errors"])
def test_formats_and_ground_are_light(module, nothing):
    """Numpy and msgpack; none of the wings."""
    new = loaded_by(f"import maas_sdk.{module}") - nothing
    top = {name.partition(".")[0] for name in new if not name.startswith("_")}
    assert top - sys.stdlib_module_names - {"cython_runtime"} <= {"maas_sdk", "numpy", "msgpack"}
    assert not new & SLOW
    wings = {name.split(".")[1] for name in new if name.startswith("maas_sdk.")}
    assert wings <= {"errors", "faces", "tensors", "bundle", "wire"}
