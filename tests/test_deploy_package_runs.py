"""A really exported bundle, packaged, served by a real functions-framework, and called."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import psutil  # type: ignore[import-untyped]  # its types are a package of their own
import pytest

from maas_sdk.deploy.package import package
from maas_sdk.deploy.process import FunctionProcess
from maas_sdk.export import ProgramSpec, default_targets, export
from maas_sdk.store.opening import LocalStore
from maas_sdk.wire.frames import (
    CONTENT_TYPE,
    Call,
    Failure,
    Result,
    decode_results,
    encode_calls,
)

PREDICT = "/v1/models/toy:predict"
X = np.arange(12, dtype=np.float32).reshape(6, 2)
SQUARE = np.array([[[4, 2], [2, 3]]], np.float32)
W = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


def get(process: FunctionProcess, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged folder of a bundle that was really exported: x → x @ w."""
    scratch = tmp_path_factory.mktemp("real")
    bundle = export(
        lambda weights, inputs: {"y": inputs["x"] @ weights["w"]},
        {"x": X},
        path=scratch / "toy.maas",
        name="toy",
        weights={"w": W},
        buckets=(1, 4),
        targets=default_targets()[:1],
    )
    return package(bundle.path, scratch / "out")


def test_folder_runs_as_it_is(real_folder: Path) -> None:
    """functions-framework serves the folder, from its AOT executables, and ends cleanly."""
    body = encode_calls([Call("a", {"x": X}), Call("b", {"x": X[:1]}), Call("c", {"x": X[:0]})])
    with FunctionProcess(real_folder) as process:
        status, answer = process.first_answer(PREDICT, body, headers={"Content-Type": CONTENT_TYPE})
        assert status == 200, answer
        for result, x in zip(decode_results(answer), (X, X[:1], X[:0]), strict=True):
            assert isinstance(result, Result)
            np.testing.assert_allclose(result.outputs["y"], x @ W, rtol=1e-5)
        status, answer = get(process, "/v1/models/toy/metadata")
        assert status == 200
        assert json.loads(answer)["maas"]["tier"] == "executable"
        assert process.stop() == 0, process.log()
        (loaded,) = [event for _, event in process.events() if "tier" in event]
    assert loaded["model"] == "toy"
    assert "Traceback" not in process.log()


def test_a_function_fetches_its_bundle_from_a_store(real_folder: Path, tmp_path: Path) -> None:
    """The version that its main.py names; callers hear of one that is not there."""
    bundle, store = real_folder / "model.maas", tmp_path / "store"
    assert LocalStore(store).publish(bundle, "toy") == "1"
    body = encode_calls([Call("a", {"x": X})])
    headers = {"Content-Type": CONTENT_TYPE}
    for version, status in (("1", 200), ("2", 500)):
        out = package(bundle, tmp_path / f"v{version}", bundle_from=f"file://{store}/toy@{version}")
        assert not (out / "model.maas").exists()
        with FunctionProcess(out) as process:
            found, answer = process.first_answer(PREDICT, body, headers=headers)
        assert found == status, answer
        if status == 200:
            [result] = decode_results(answer)
            assert isinstance(result, Result)
            np.testing.assert_allclose(result.outputs["y"], X @ W, rtol=1e-5)
        else:
            assert b"no version 2" in answer


@pytest.fixture(scope="module")
def rich_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three programs: bfloat16 rows, LAPACK's functions, and rows that depend on each other."""
    scratch = tmp_path_factory.mktemp("rich")

    def spectrum(weights: Any, inputs: Any) -> Any:
        return {
            "factor": jnp.linalg.cholesky(inputs["s"]),
            "values": jnp.linalg.eigh(inputs["s"])[0],
        }

    bundle = export(
        lambda weights, inputs: {"y": inputs["x"] @ weights["w"]},
        {"x": X.astype(ml_dtypes.bfloat16)},
        path=scratch / "toy.maas",
        name="toy",
        weights={"w": W.astype(ml_dtypes.bfloat16)},
        buckets=(1, 4),
        programs={
            "predict": None,
            "spectrum": ProgramSpec(fn=spectrum, example_inputs={"s": SQUARE}),
            "center": ProgramSpec(fn=lambda weights, i: i["x"] - i["x"].mean(axis=0), buckets=(2,)),
        },
        targets=default_targets()[:1],
    )
    return package(bundle.path, scratch / "out")


def test_what_models_do_in_a_real_function(rich_folder: Path) -> None:
    """LAPACK without jax, bfloat16, NaN, no rows and too many, in one frame; then as curl asks."""
    x = X.astype(ml_dtypes.bfloat16)
    x[1] = np.nan
    calls = [
        Call("linear algebra", {"s": SQUARE}, "spectrum"),
        Call("nan", {"x": x}),
        Call("no rows", {"x": x[:0]}),
        Call("over every bucket", {"x": np.repeat(x[:1], 11, axis=0)}),
        Call("dependent", {"x": x[2:4]}, "center"),
        Call("dependent, another size", {"x": x[2:5]}, "center"),
        Call("another program", {"x": x}, "embed"),
        Call("another dtype", {"x": X}),
    ]
    with FunctionProcess(rich_folder) as process:
        status, answer = process.first_answer(
            PREDICT, encode_calls(calls), headers={"Content-Type": CONTENT_TYPE}
        )
        assert status == 200, answer
        answers = {answer.id: answer for answer in decode_results(answer)}
        outputs = {a.id: a.outputs for a in answers.values() if isinstance(a, Result)}
        refused = {a.id: a for a in answers.values() if isinstance(a, Failure)}
        spectrum = outputs["linear algebra"]
        np.testing.assert_allclose(spectrum["factor"], np.linalg.cholesky(SQUARE), rtol=1e-5)
        np.testing.assert_allclose(spectrum["values"], np.linalg.eigvalsh(SQUARE), rtol=1e-5)
        y = outputs["nan"]["y"]
        assert y.dtype == ml_dtypes.bfloat16
        assert np.isnan(y[1]).all()
        np.testing.assert_allclose(y[2].astype(np.float32), X[2] @ W, rtol=1e-2)
        assert outputs["no rows"]["y"].shape == (0, 3)
        assert outputs["over every bucket"]["y"].shape == (11, 3)
        np.testing.assert_array_equal(
            outputs["dependent"]["output"].astype(np.float32), [[-1, -1], [1, 1]]
        )
        for name, code, words in [
            (
                "dependent, another size",
                "invalid_input",
                "answers batches of exactly 2 rows, not 3",
            ),
            ("another program", "not_found", "no program 'embed'"),
            ("another dtype", "invalid_input", "expected dtype bfloat16, got float32"),
        ]:
            assert refused[name].code == code
            assert words in refused[name].message
        # `curl -d '{"instances": …}'`, which declares a form.
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        status, answer = process.first_answer(PREDICT, [b'{"instances": [[0, 1]]}'], headers=form)
        assert (status, json.loads(answer)) == (200, {"predictions": [[4, 5, 6]]})
        body = json.dumps({"signature_name": "spectrum", "inputs": SQUARE.tolist()}).encode()
        status, answer = process.first_answer(PREDICT, [body], headers=form)
        assert status == 200, answer
        found = json.loads(answer)["outputs"]["values"]
        np.testing.assert_allclose(found, np.linalg.eigvalsh(SQUARE), rtol=1e-5)


ALONE = """
import re, sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

def closure(name, found):
    if name not in found:
        found.add(name)
        try:
            lines = requires(name) or ()
        except PackageNotFoundError:  # for another Python, or another system
            lines = ()
        for line in lines:
            if "extra ==" not in line:
                closure(re.match(r"[\\w.-]+", line)[0].lower().replace("_", "-"), found)
    return found

class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        owners = {d.lower().replace("_", "-") for d in OWNERS.get(top, ())}
        if owners and not owners & ALLOWED:
            raise ModuleNotFoundError(f"{top} is not installed by: pip install maas-sdk")

OWNERS, ALLOWED = packages_distributions(), closure("maas-sdk", set())
assert ALLOWED >= {"httpx", "numpy", "msgpack", "ml-dtypes"} and "jaxlib" not in ALLOWED
sys.meta_path.insert(0, Refuse())
import ml_dtypes
import numpy as np
from maas_sdk.client import Client
x = np.array([[0, 1], [2, 3]], ml_dtypes.bfloat16)
with Client(sys.argv[1], model="toy") as client:
    print(client.predict(x).dtype, [y.tolist() for y in client.predict_many(iter(x))])
"""


def test_the_client_needs_only_what_pip_installs_with_it(rich_folder: Path) -> None:
    """``pip install maas-sdk`` without extras calls a real function with bfloat16."""
    with FunctionProcess(rich_folder) as process:
        process.first_answer(PREDICT, [b'{"instances": [[0, 1]]}'])
        done = subprocess.run(
            [sys.executable, "-c", ALONE, process.url],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "bfloat16 [[4.0, 5.0, 6.0], [14.0, 19.0, 24.0]]\n"


@pytest.mark.parametrize("after_s", [0, 0.005, 0.02, 0.04])
def test_sigterm_is_heard_from_the_first_moment(real_folder: Path, after_s: float) -> None:
    """Stopped while its worker starts, the function ends by itself: nobody has to kill it."""
    with FunctionProcess(real_folder) as process:
        master = psutil.Process(process.pid)
        while not master.children():
            assert master.status() != psutil.STATUS_ZOMBIE, process.log()
            time.sleep(0.001)
        time.sleep(after_s)
        assert process.stop() == 0, process.log()


def test_a_worker_that_was_killed_has_a_successor(real_folder: Path) -> None:
    """The master forks another one, from the same prepared bundle, and calls go on."""
    body = encode_calls([Call("a", {"x": X})])
    headers = {"Content-Type": CONTENT_TYPE}
    with FunctionProcess(real_folder) as process:
        workers = []
        for turn in range(2):
            status, answer = process.first_answer(PREDICT, body, headers=headers)
            assert status == 200, answer
            (result,) = decode_results(answer)
            assert isinstance(result, Result)
            np.testing.assert_allclose(result.outputs["y"], X @ W, rtol=1e-5)
            workers += psutil.Process(process.pid).children()
            if turn == 0:
                workers[0].kill()
                psutil.wait_procs(workers, timeout=30)
        assert len({worker.pid for worker in workers}) == 2


def test_many_clients_of_the_real_engine(real_folder: Path) -> None:
    """32 clients at once, batches of every size, each gets its own answers."""
    with FunctionProcess(real_folder) as process:

        def client(number: int) -> None:
            x = np.full((1 + number % 9, 2), number, np.float32)
            status, answer = process.first_answer(
                PREDICT, encode_calls([Call("a", {"x": x})]), headers={"Content-Type": CONTENT_TYPE}
            )
            assert status == 200, answer
            (result,) = decode_results(answer)
            assert isinstance(result, Result)
            np.testing.assert_allclose(result.outputs["y"], x @ W, rtol=1e-5)

        with ThreadPoolExecutor(32) as pool:
            list(pool.map(client, range(96)))


def test_corrupt_folder_tells_every_caller(real_folder: Path, tmp_path: Path) -> None:
    """A file that changed after packaging: each caller hears which, and the process lives."""
    folder = tmp_path / "out"
    shutil.copytree(real_folder, folder)
    manifest_file = folder / "model.maas" / "manifest.json"
    manifest_file.write_bytes(manifest_file.read_bytes()[:-20])
    with FunctionProcess(folder) as process:
        for _ in range(2):
            status, answer = process.first_answer(PREDICT, [b'{"inputs": [[1, 2]]}'])
            assert (status, json.loads(answer)["code"]) == (500, "manifest_invalid")
        assert get(process, "/v2/health/live")[0] == 200
        assert get(process, "/v2/health/ready")[0] == 500
        assert process.stop() == 0
