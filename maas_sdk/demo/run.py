"""The demo's stages in their order: train, quantize, export, package, start cold, call, report.

Every stage is a function from what came before to a frozen result; what it shows while it works
goes to a ``Watcher``, which the terminal and the tests implement.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from maas_sdk.charts.quantities import count, data_size, duration, percent, ratio
from maas_sdk.demo import service, workshop
from maas_sdk.demo.config import DemoConfig, StageWatch, Watcher
from maas_sdk.demo.machine import describe_machine
from maas_sdk.demo.report import render
from maas_sdk.demo.result import DemoResult, Stage

__all__ = ["run"]


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
            f"{trained.facts.parameters:,} parameters, {config.devices} devices"
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
        machine=describe_machine(),
    )
    path = config.out / "report.html"
    path.write_text(render(result), encoding="utf-8")
    return result, path
