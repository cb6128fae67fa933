"""Process start to first correct answer over HTTP, through functions-framework, with bytecode.

For a 68 MB CNN and a 503 MB MLP, ours against (a) a function that does nothing, (b) ONNX Runtime on
the same network, as one who knows it would deploy it, (c) jit + Flax + Orbax as a tutorial would
write it. The peers on one network take turns, every start is a fresh process and every answer is
checked.

    python bench/cold_start.py [--runs N] [--save]

Needs maas-sdk[demo] and onnx, onnxruntime. The models are built once, into .cache/bench.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import harness
import numpy as np
import psutil

import maas_sdk
from maas_sdk.deploy.process import FunctionProcess
from maas_sdk.wire.frames import CONTENT_TYPE, Call, Failure, decode_results, encode_calls

HERE = Path(__file__).parent
CACHE = HERE.parent / ".cache" / "bench"
PEERS = HERE / "peers"


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A function folder, one request, and what its answer must be."""

    folder: Path
    path: str = "/"
    body: bytes = b""
    content_type: str = "application/octet-stream"
    environment: Mapping[str, str] = field(default_factory=dict)
    answer: Callable[[bytes], np.ndarray] | None = None
    expected: np.ndarray | None = None
    memory_mb: list[float] = field(default_factory=list)

    def start(self) -> float:
        """One cold start, in seconds. Also notes the peak memory of the serving process."""
        began = time.perf_counter()
        with FunctionProcess(self.folder, environment=self.environment) as process:
            headers = {"Content-Type": self.content_type}
            status, body = process.first_answer(self.path, [self.body], headers=headers)
            took_s = time.perf_counter() - began
            if status != 200:
                raise SystemExit(f"{self.folder}: status {status}: {body[:500]!r}")
            if self.answer is not None:
                found = self.answer(body)
                if not np.allclose(found, self.expected, rtol=1e-3, atol=1e-3):
                    raise SystemExit(f"{self.folder}: wrong answer")
            self.memory_mb.append(serving_memory_mb(process.pid))
        return took_s


def serving_memory_mb(pid: int) -> float:
    """Peak resident memory of gunicorn's worker, in 10^6 bytes."""
    [worker] = psutil.Process(pid).children()
    with open(f"/proc/{worker.pid}/status") as file:
        [line] = [line for line in file if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6


def prepare(name: str) -> None:
    """Build one network in all its forms; run in a process of its own, which imports JAX."""
    import orbax.checkpoint as ocp
    from flax import nnx
    from networks import NETWORKS
    from onnx_twin import write_onnx

    from maas_sdk.deploy.package import package
    from maas_sdk.export import export

    folder = CACHE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    network = NETWORKS[name]
    model = network.build()
    x = np.random.default_rng(0).random((1, *network.input_shape), dtype=np.float32)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", np.asarray(nnx.jit(lambda x: model(x))(x)))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute() / "checkpoint", nnx.state(model))
    write_onnx(model, network.input_shape, folder / "model.onnx")
    bundle = export(model, x, path=folder / "model.maas", name=name, buckets=(1, 8))
    package(bundle.path, folder / "function")
    (folder / "done").touch()


def contestants(name: str) -> dict[str, Contestant]:
    """Ours and its peers for one network."""
    folder = (CACHE / name).absolute()
    x, y = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    frame = b"".join(encode_calls([Call(id="0", inputs={"input": x})]))

    def framed(body: bytes) -> np.ndarray:
        [result] = decode_results(body)
        if isinstance(result, Failure):
            raise SystemExit(f"{name}: {result.message}")
        return next(iter(result.outputs.values()))

    def raw(body: bytes) -> np.ndarray:
        return np.frombuffer(body, np.float32).reshape(y.shape)

    return {
        f"{name} maas_sdk": Contestant(
            folder=folder / "function",
            path=f"/v1/models/{name}:predict",
            body=frame,
            content_type=CONTENT_TYPE,
            answer=framed,
            expected=y,
        ),
        f"{name} onnxruntime": Contestant(
            folder=PEERS / "onnxruntime",
            body=x.tobytes(),
            environment={"BENCH_ONNX": str(folder / "model.onnx")},
            answer=raw,
            expected=y,
        ),
        f"{name} tutorial": Contestant(
            folder=PEERS / "tutorial",
            body=x.tobytes(),
            environment={
                "BENCH_NETWORK": name,
                "BENCH_CHECKPOINT": str(folder / "checkpoint"),
                "PYTHONPATH": str(HERE),
            },
            answer=raw,
            expected=y,
        ),
    }


def main() -> None:
    arguments = harness.arguments(__doc__)
    for name in ("cnn", "mlp"):
        if not (CACHE / name / "done").exists():
            print(f"building {name} …", file=sys.stderr)
            subprocess.run([sys.executable, __file__, "--prepare", name], check=True)
    # Bytecode for everything that a start imports, our peers included.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    sources = [HERE, Path(maas_sdk.__file__).parent]
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", *sources], check=True, env=environment
    )
    harness.require_bytecode()
    # Each network with its peers by itself: the half-gigabyte ones leave the machine short of
    # breath for a while, which is not to be in the CNN's figures.
    samples: dict[str, harness.Sample] = {}
    field = {"empty function": Contestant(folder=PEERS / "empty")}
    for name in ("cnn", "mlp"):
        rivals = (field if name == "cnn" else {}) | contestants(name)
        starts = {key: rival.start for key, rival in rivals.items()}
        samples |= harness.interleave(starts, runs=arguments.runs)
        field |= rivals
    rows = [
        {**sample.row(), "peak MB": round(max(field[name].memory_mb))}
        for name, sample in samples.items()
    ]

    def ratio(ours: str, peer: str) -> float:
        return harness.median_ratio(samples[ours], samples[peer])

    weights_mb = {
        name: (CACHE / name / "model.maas" / "weights.safetensors").stat().st_size / 1e6
        for name in ("cnn", "mlp")
    }
    over = {n: max(field[f"{n} maas_sdk"].memory_mb) - weights_mb[n] for n in weights_mb}
    harness.finish(
        "cold_start",
        {
            "cnn_vs_empty": ratio("cnn maas_sdk", "empty function"),
            "cnn_vs_onnxruntime": ratio("cnn maas_sdk", "cnn onnxruntime"),
            "cnn_vs_tutorial": ratio("cnn maas_sdk", "cnn tutorial"),
            "mlp_vs_onnxruntime": ratio("mlp maas_sdk", "mlp onnxruntime"),
            "cnn_memory_over_weights_mb": over["cnn"],
            "mlp_memory_over_weights_mb": over["mlp"],
        },
        rows,
        save=arguments.save,
        targets={
            "cnn_vs_empty": "≤ 1.5",
            "cnn_vs_onnxruntime": "≤ 0.7",
            "cnn_vs_tutorial": "≤ 0.2",
            "mlp_vs_onnxruntime": "≤ 0.35",
            "cnn_memory_over_weights_mb": "≤ 150",
            "mlp_memory_over_weights_mb": "≤ 150",
        },
        notes=(
            "Milliseconds from process start to the first correct answer over HTTP, through "
            "functions-framework. Ratios are medians of the rounds' own ratios. Peak MB is the "
            "resident peak of the serving process, mapped weights included."
        ),
        packages=("numpy", "jaxlib", "functions-framework", "gunicorn", "onnxruntime", "flax"),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--prepare"]:
        prepare(sys.argv[2])
    else:
        main()
