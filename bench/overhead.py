"""Overhead of serving a call: batch-1 latency over HTTP less the raw executable's time.

Against the latency of a function that does nothing, both through functions-framework, both warm,
the same request to each in turn over a kept connection. The raw executable is run in this process,
on a buffer that XLA already has.

    python bench/overhead.py [--runs N] [--save]

Needs maas-sdk[demo]. The model is the demo's convnet, with weights as they are drawn.
"""

from __future__ import annotations

import http.client
import shutil
import subprocess
import sys
import time
from pathlib import Path

import harness
import numpy as np

from maas_sdk.deploy.process import FunctionProcess
from maas_sdk.wire.frames import CONTENT_TYPE, Call, Failure, decode_results, encode_calls

HERE = Path(__file__).parent
FOLDER = (HERE.parent / ".cache" / "bench" / "digits").absolute()
REQUESTS = 400
WARMUP = 400  # requests of a round that are not counted


def prepare() -> None:
    """Export the demo's convnet; run in a process of its own, which imports JAX."""
    from flax import nnx

    from maas_sdk.deploy.package import package
    from maas_sdk.export import export
    from maas_sdk.models.convnet import ConvNet

    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    x = np.random.default_rng(0).random((1, 8, 8, 1), dtype=np.float32)
    bundle = export(
        ConvNet(rngs=nnx.Rngs(0)), {"image": x}, path=FOLDER / "model.maas", name="digits"
    )
    package(bundle.path, FOLDER / "function")
    np.save(FOLDER / "x.npy", x)
    (FOLDER / "done").touch()


class Caller:
    """One kept connection that sends the same request again and again."""

    def __init__(self, process: FunctionProcess, path: str, body: bytes, kind: str) -> None:
        status, self.first = process.first_answer(path, [body], headers={"Content-Type": kind})
        if status != 200:
            raise SystemExit(f"{path}: status {status}: {self.first[:300]!r}")
        self._connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=10)
        self._request = (path, body, {"Content-Type": kind})

    def ask(self) -> float:
        """Seconds from the request's first byte to the answer's last."""
        path, body, headers = self._request
        began = time.perf_counter()
        self._connection.request("POST", path, body, headers)
        response = self._connection.getresponse()
        response.read()
        took_s = time.perf_counter() - began
        if response.status != 200:
            raise SystemExit(f"{path}: status {response.status}")
        return took_s


def raw_executable(x: np.ndarray) -> float:
    """Median seconds of the executable alone, its input already with XLA."""
    from maas_sdk.bundle import open_bundle, open_weights
    from maas_sdk.bundle.manifest import WEIGHTS, executable_path
    from maas_sdk.runtime import load, xla

    with load(FOLDER / "model.maas") as engine:
        target = engine.report.target
    bundle = open_bundle(FOLDER / "model.maas")
    client = xla.XlaClient()
    executable = client.load(bundle.read(executable_path(str(target), "predict", 1)))
    weights = open_weights(bundle.path / WEIGHTS)
    program = bundle.manifest.programs["predict"]
    buffers = [client.put(weights[name]) for name in program.weights] + [client.put(x)]
    outputs = [((1, 10), np.dtype(np.float32))]
    times = [harness.timed(lambda: executable.run(buffers, outputs)) for _ in range(1000)]
    return float(np.median(times))


def main() -> None:
    arguments = harness.arguments(__doc__)
    if not (FOLDER / "done").exists():
        subprocess.run([sys.executable, __file__, "--prepare"], check=True)
    x = np.load(FOLDER / "x.npy")
    frame = b"".join(encode_calls([Call(id="0", inputs={"image": x})]))
    raw_s = raw_executable(x)
    rounds: dict[str, list[float]] = {"ours p50": [], "ours p99": []}
    rounds |= {"empty p50": [], "empty p99": []}
    # New processes each round: how well one runs depends on where the system has put it.
    for _ in range(arguments.runs):
        with (
            FunctionProcess(FOLDER / "function") as ours_process,
            FunctionProcess(HERE / "peers" / "empty") as empty_process,
        ):
            ours = Caller(ours_process, "/v1/models/digits:predict", frame, CONTENT_TYPE)
            [result] = decode_results(ours.first)
            if isinstance(result, Failure):
                raise SystemExit(result.message)
            empty = Caller(empty_process, "/", frame, CONTENT_TYPE)
            taken = np.array([(ours.ask(), empty.ask()) for _ in range(WARMUP + REQUESTS)])
        p50, p99 = np.percentile(taken[WARMUP:], (50, 99), axis=0)
        rounds["ours p50"].append(p50[0] - raw_s)
        rounds["empty p50"].append(p50[1])
        rounds["ours p99"].append(p99[0] - raw_s)
        rounds["empty p99"].append(p99[1])
    samples = {
        name: harness.Sample(name=name, values=tuple(values)) for name, values in rounds.items()
    }
    harness.finish(
        "overhead",
        {
            "p50_vs_empty": harness.median_ratio(samples["ours p50"], samples["empty p50"]),
            "p99_vs_empty": harness.median_ratio(samples["ours p99"], samples["empty p99"]),
            "raw_executable_ms": raw_s * 1e3,
        },
        [sample.row() for sample in samples.values()],
        save=arguments.save,
        targets={"p50_vs_empty": "≤ 1.5", "p99_vs_empty": "≤ 1.5"},
        notes=(
            f"Milliseconds per request, {REQUESTS} requests a round to each function in turn, "
            "both newly started. "
            "Ours is the latency less the median of the raw executable."
        ),
        packages=("numpy", "jaxlib", "msgpack", "functions-framework", "gunicorn"),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--prepare"]:
        prepare()
    else:
        main()
