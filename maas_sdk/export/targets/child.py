"""Child process of an export: compiles for one target, or runs packaged programs.

The rule: jaxlib, the runtime and the formats, never jax; what works here works where the model
is served. So this file is run as a script: importing it as ``maas_sdk.export.targets.child`` would
bring the whole workshop along. It answers one job and tells of each finished step. The target's
XLA flags are in the environment.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from maas_sdk.bundle.encoding.spec import check_encodings, decode, read_encoding
from maas_sdk.bundle.files.staging import disk_errors
from maas_sdk.bundle.files.weights import open_weights, write_weights
from maas_sdk.children.job_loop import Say, run_job_loop
from maas_sdk.errors import IncompatibleError
from maas_sdk.export.targets.instructions import features_of_executable
from maas_sdk.runtime import xla
from maas_sdk.runtime.plugins import find_plugin
from maas_sdk.tensors import dtype_from_name

__all__ = ["compile_programs", "describe", "run_programs"]

_TIMED_RUNS = 3
_TIMED_S = 0.1
_MOST_RUNS = 200


def compile_programs(job: dict[str, Any], say: Say) -> dict[str, Any]:
    """Compile StableHLO files to executables; return jaxlib's build and the processor features."""
    client = _client(job)
    if client.platform != "cpu" and client.arch != job["arch"]:
        raise IncompatibleError(
            f"compiled for {job['arch']}, but the {client.platform} device here is {client.arch}"
        )
    features: set[str] = set()
    for item in job["items"]:
        data = client.compile(Path(item["program"]).read_bytes()).serialize()
        with disk_errors(Path(item["executable"])):
            Path(item["executable"]).write_bytes(data)
        if client.platform == "cpu":
            features.update(features_of_executable(data))
        say({"done": item["name"]})
    return {"jaxlib": xla.jaxlib_build(), "cpu_features": sorted(features)}


def run_programs(job: dict[str, Any], say: Say) -> dict[str, Any]:
    """Run packaged programs on stored inputs and store their answers.

    The job: ``weights``, the path of the tensors, and ``encodings`` by name, as in a manifest.
    Each run: ``file`` and ``kind`` ("executable" or "program"), ``weights`` in argument order,
    ``inputs`` and ``outputs`` as safetensors paths, ``results`` as [name, dtype, shape]. Returns
    the seconds of one run, the fastest of a few, by the run's ``name``.
    """
    client = _client(job)
    stored = open_weights(job["weights"])
    encodings = {name: read_encoding(made, name) for name, made in job["encodings"].items()}
    check_encodings(encodings, stored.specs)
    buffers: dict[str, Any] = {}
    run_s: dict[str, float] = {}
    for run in job["runs"]:
        data = Path(run["file"]).read_bytes()
        program = client.load(data) if run["kind"] == "executable" else client.compile(data)
        for name in run["weights"]:
            if name not in buffers:
                buffers[name] = client.put(decode(name, encodings, stored))
        inputs = open_weights(run["inputs"])
        arguments = [buffers[name] for name in run["weights"]]
        arguments += [client.put(inputs[name]) for name in sorted(inputs)]
        results = run["results"]
        specs = [(tuple(shape), dtype_from_name(dtype)) for _, dtype, shape in results]
        answers = program.run(arguments, specs)
        run_s[run["name"]] = _fastest_s(program, arguments, specs)
        named = {result[0]: answer for result, answer in zip(results, answers, strict=True)}
        with disk_errors(Path(run["outputs"])):
            write_weights(Path(run["outputs"]), named)
        say({"done": run["name"]})
    return {"run_s": run_s}


def describe(job: dict[str, Any], say: Say) -> dict[str, Any]:
    """Describe the device that a job names."""
    return {"arch": _client(job).arch, "jaxlib": xla.jaxlib_build()}


def _client(job: dict[str, Any]) -> xla.XlaClient:
    """Return the client for the processor, or for the first device of the job's platform."""
    platform = job.get("platform", "cpu")
    return xla.XlaClient() if platform == "cpu" else xla.XlaClient(find_plugin(platform))


def _fastest_s(program: xla.Executable, arguments: list[Any], specs: list[Any]) -> float:
    """Return seconds of the fastest run: of a few, or of many short ones, as others disturb."""
    fastest_s, spent_s, runs = math.inf, 0.0, 0
    while runs < _TIMED_RUNS or (spent_s < _TIMED_S and runs < _MOST_RUNS):
        began = time.perf_counter()
        program.run(arguments, specs)
        took_s = time.perf_counter() - began
        fastest_s, spent_s, runs = min(fastest_s, took_s), spent_s + took_s, runs + 1
    return fastest_s


def _work(job: dict[str, Any], say: Say) -> dict[str, Any]:
    xla.register_custom_calls(job.get("custom_calls", ()))
    return {"compile": compile_programs, "run": run_programs, "describe": describe}[job["work"]](
        job, say
    )


if __name__ == "__main__":
    run_job_loop(_work)
