"""A really exported bundle, packaged, served by a real functions-framework, and called."""

from __future__ import annotations

import http.client
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from maas_sdk.deploy.package import package
from maas_sdk.deploy.process import FunctionProcess
from maas_sdk.export import ProgramSpec, default_targets, export
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
