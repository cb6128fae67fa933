"""The demo's second half, in separate processes: package, start cold, call and check."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from maas_sdk.bundle import Bundle
from maas_sdk.client import Client
from maas_sdk.demo.config import DemoConfig
from maas_sdk.demo.digits import CLASS_NAMES
from maas_sdk.demo.result import Calls, Packaged, Sample
from maas_sdk.deploy.coldstart import ColdStart, measure
from maas_sdk.deploy.golden import golden_call, largest_excess
from maas_sdk.deploy.package import package as package_bundle
from maas_sdk.deploy.process import FunctionProcess
from maas_sdk.errors import MaasError
from maas_sdk.evaluate.accuracy import confusion_matrix
from maas_sdk.tensors import Array
from maas_sdk.training.data import Examples

if TYPE_CHECKING:
    from maas_sdk.demo.workshop import QuantizedStage

__all__ = ["Answers", "Report", "call", "choose_samples", "cold_start", "package"]

Report = Callable[[int, int, str], None]

# Rows in a frame of the batched calls: the largest bucket of the bundle.
_FRAME_ROWS: Final = 64
_SAMPLES: Final = 25
# Calls before the clock runs, so that connections and code paths are warm.
_WARM_UP_CALLS: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Answers of the endpoint."""

    calls: Calls
    # [10, 10] counts: row = true digit, column = predicted digit.
    confusion: Array
    samples: tuple[Sample, ...]


def package(bundle: Bundle, config: DemoConfig) -> tuple[Path, Packaged]:
    """Write the function folder."""
    folder = package_bundle(bundle.path, config.out / "digits-function", overwrite=True)
    program = bundle.manifest.programs["predict"]
    verification = program.verification
    assert verification is not None, "the demo exports with verification"
    return folder, Packaged(
        bundle_nbytes=sum(entry.size_bytes for entry in bundle.manifest.files.values()),
        function_nbytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        buckets=program.buckets,
        targets=tuple(bundle.manifest.targets),
        verified_rows=verification.rows,
        max_abs_error=max(verification.max_abs_error.values(), default=0.0),
        atol=verification.atol,
        rtol=verification.rtol,
    )


def cold_start(bundle: Bundle, folder: Path, config: DemoConfig, report: Report) -> ColdStart:
    """Start the function and an empty one in turns."""
    turns = config.starts + 1
    with tempfile.TemporaryDirectory(prefix="maas-demo-") as scratch:
        return measure(
            folder,
            golden_call(bundle.path),
            scratch=Path(scratch),
            runs=config.starts,
            progress=lambda done: report(done, turns, f"start {done} of {turns}"),
        )


def call(
    bundle: Bundle,
    folder: Path,
    test: Examples,
    reference: QuantizedStage,
    config: DemoConfig,
    report: Report,
) -> Answers:
    """Start the function once more and call it, row by row and in frames of many rows.

    Every answer is held against ``reference.logits``, the same model in this process.
    """
    singles = np.arange(config.single_calls) % len(test)
    rows = np.tile(np.arange(len(test)), config.batched_rounds)
    steps = 1 + len(singles) + len(rows)
    with FunctionProcess(folder) as process:
        golden = golden_call(bundle.path)
        process.first_answer(golden.path, golden.body, headers=golden.headers)
        report(1, steps, "warm")
        with Client(process.url, bundle.manifest.name) as client:
            for row in singles[:_WARM_UP_CALLS]:
                client.predict(test.inputs[row : row + 1])
            latencies, one_by_one = [], []
            for done, row in enumerate(singles, 1):
                began = time.perf_counter()
                one_by_one.append(client.predict(test.inputs[row : row + 1]))
                latencies.append(time.perf_counter() - began)
                report(done, steps, "one row per call")
            began = time.perf_counter()
            batched = []
            for answer in client.predict_many(test.inputs[rows], batch_rows=_FRAME_ROWS):
                if isinstance(answer, MaasError):
                    raise answer
                batched.append(answer)
                if len(batched) % _FRAME_ROWS == 0:
                    report(len(singles) + len(batched), steps, "batched in frames")
            batched_s = time.perf_counter() - began
    single_logits = np.concatenate([np.asarray(answer) for answer in one_by_one])
    batched_logits = np.stack([np.asarray(answer) for answer in batched])
    found = np.concatenate([single_logits, batched_logits])
    wanted = reference.logits[np.concatenate([singles, rows])]
    verification = bundle.manifest.programs["predict"].verification
    differing = sum(
        largest_excess(one, other, verification) > 0
        for one, other in zip(found, wanted, strict=True)
    )
    held_out = batched_logits[: len(test)]
    return Answers(
        calls=Calls(
            latencies_s=tuple(latencies),
            batched_rows=len(rows),
            batched_duration_s=batched_s,
            max_abs_error=float(np.max(np.abs(found - wanted))),
            differing=int(differing),
        ),
        confusion=confusion_matrix(held_out.argmax(1), test.labels, classes=len(CLASS_NAMES)),
        samples=choose_samples(held_out, test),
    )


def choose_samples(logits: Array, test: Examples, count: int = _SAMPLES) -> tuple[Sample, ...]:
    """Choose digits for the report: up to a fifth wrong ones, spread among right ones.

    Args:
        logits: float32[N, 10].
        test: the N rows that they answer.
        count: how many to choose.
    """
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    predicted = logits.argmax(axis=1)
    wrong = np.flatnonzero(predicted != test.labels)[: count // 5]
    right = np.flatnonzero(predicted == test.labels)[: count - len(wrong)]
    chosen = list(right)
    for place, row in enumerate(wrong):
        # Six apart: in rows of five they do not line up.
        chosen.insert(min(len(chosen), 2 + 6 * place), row)
    return tuple(
        Sample(
            image=test.inputs[row].reshape(test.inputs.shape[1:3]),
            label=int(test.labels[row]),
            predicted=int(predicted[row]),
            confidence=float(probabilities[row, predicted[row]]),
        )
        for row in chosen
    )
