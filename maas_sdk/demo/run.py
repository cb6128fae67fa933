"""The demo's stages in their order: train, quantize, export, package, start cold, call, report.

Every stage is a function from what came before to a frozen result; what it shows while it works
goes to a ``Watcher``, which the terminal and the tests implement.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final, Protocol

from maas_sdk.demo import service, workshop
from maas_sdk.demo.quantities import count, data_size, duration, percent, ratio
from maas_sdk.demo.report import render
from maas_sdk.demo.result import DemoResult, Machine, Stage
from maas_sdk.errors import ConfigError

__all__ = ["DemoConfig", "StageWatch", "Watcher", "run"]

_PACKAGES: Final = ("jax", "jaxlib", "flax", "qwix", "numpy", "functions-framework", "maas-sdk")


class StageWatch(Protocol):
    """Told how one stage goes."""

    def progress(self, done: int, total: int, note: str = "") -> None:
        """So much of it is done."""

    def done(self, line: str) -> None:
        """It is finished, and this is what it found."""


class Watcher(Protocol):
    """Shows the stages while they run."""

    def stage(self, name: str) -> AbstractContextManager[StageWatch]:
        """A stage begins; it ends with the block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """What to run."""

    # Folder for the bundle, the function and the report. The demo's own files in it are replaced.
    out: Path
    seed: int = 0
    epochs: int = 12
    # Cold starts that count.
    starts: int = 5
    # Virtual CPU devices that share each training batch.
    devices: int = 8
    # Warm calls of one row.
    single_calls: int = 500
    # Times that the held-out rows are sent in frames.
    batched_rounds: int = 10

    def __post_init__(self) -> None:
        for name in ("epochs", "starts", "devices", "single_calls", "batched_rounds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected 1 or more, got {getattr(self, name)}")


def run(config: DemoConfig, watcher: Watcher) -> tuple[DemoResult, Path]:
    """Run all stages and write the report.

    XLA must have ``config.devices`` devices: the command sets its flag before JAX is imported.

    Returns:
        What was found, and where the report is.

    Raises:
        MaasError: a stage failed. A check that fails is no error; it is in the result.
    """
    started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    stages: list[Stage] = []

    @contextmanager
    def stage(name: str) -> Iterator[StageWatch]:
        began = time.perf_counter()
        with watcher.stage(name) as watch:
            yield watch
        stages.append(Stage(name=name, duration_s=time.perf_counter() - began))

    config.out.mkdir(parents=True, exist_ok=True)
    with stage("train") as watch:
        trained = workshop.train(config, watch.progress)
        watch.done(
            f"{percent(trained.variant.accuracy)} of {trained.facts.test_rows} held-out digits, "
            f"{trained.facts.parameters:,} parameters, {trained.facts.mesh}"
        )
    with stage("quantize") as watch:
        quantized = workshop.quantize(trained)
        watch.done(
            f"int8: {percent(quantized.variant.accuracy)}, {data_size(trained.variant.nbytes)} "
            f"to {data_size(quantized.variant.nbytes)}"
        )
    with stage("export") as watch:
        bundle = workshop.export(trained, quantized, config, watch.progress)
        programs = bundle.manifest.programs["predict"]
        watch.done(
            f"{bundle.path.name}: batches {programs.buckets[0]} to {programs.buckets[-1]}, "
            f"{', '.join(bundle.manifest.targets)}"
        )
    with stage("package") as watch:
        folder, packaged = service.package(bundle, config)
        watch.done(f"{folder.name}/, {data_size(packaged.function_nbytes)}")
    with stage("cold start") as watch:
        cold = service.cold_start(bundle, folder, config, watch.progress)
        watch.done(
            f"{duration(cold.function_s)} to the first answer, {ratio(cold.ratio)} "
            f"an empty function"
        )
    with stage("call") as watch:
        answers = service.call(
            bundle, folder, trained.split.test, quantized, config, watch.progress
        )
        watch.done(
            f"{count(answers.calls.single_rows_per_s)} rows/s one by one, "
            f"{count(answers.calls.batched_rows_per_s)} batched; "
            f"{answers.calls.checked:,} answers checked"
        )
    result = DemoResult(
        started=started,
        training=trained.facts,
        variants=(trained.variant, quantized.variant),
        packaged=packaged,
        cold_start=cold,
        calls=answers.calls,
        confusion=answers.confusion,
        samples=answers.samples,
        stages=tuple(stages),
        machine=machine(),
    )
    path = config.out / "report.html"
    path.write_text(render(result), encoding="utf-8")
    return result, path


def machine(cpuinfo: Callable[[], str] | None = None) -> Machine:
    """Where this runs, without its name or address."""
    read = cpuinfo or (lambda: Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    try:
        processor = next(
            line.partition(":")[2].strip()
            for line in read().splitlines()
            if line.startswith("model name")
        )
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return Machine(
        processor=processor,
        cores=len(os.sched_getaffinity(0)),
        memory_nbytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.machine()}",
        versions={"Python": platform.python_version()}
        | {name: version(name) for name in _PACKAGES},
    )
