"""Results of the demo: plain values, one frozen dataclass per stage.

The stages fill them, the table in the terminal, the HTML report and ``--json`` read them; none of
the three measures anything by itself. ``checks`` has the conditions for the demo to pass.

Dimension letters: C classes, H and W height and width of an image.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from maas_sdk.charts.quantities import percent
from maas_sdk.deploy.coldstart import ColdStart, Stage
from maas_sdk.tensors import Array

__all__ = [
    "ACCURACY_WANTED",
    "AnswerCheck",
    "Calls",
    "ColdStart",
    "DemoResult",
    "Epoch",
    "Machine",
    "ModelVariant",
    "Packaged",
    "Sample",
    "Stage",
    "Training",
    "checks",
    "quantile",
    "to_document",
]

# The least share of held-out digits that the trained and the quantized model must get right.
ACCURACY_WANTED: Final = 0.97


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """One pass over the training set, judged on the held-out set afterwards."""

    number: int
    train_loss: float
    test_loss: float
    test_accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Configuration of the training, and its result."""

    epochs: tuple[Epoch, ...]
    train_rows: int
    test_rows: int
    # Number of trained scalars.
    parameters: int
    # "8 virtual CPU devices, data-parallel".
    mesh: str
    # "bfloat16 compute, float32 master weights".
    precision: str
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVariant:
    """One form of the model: as trained, or quantized."""

    name: str
    accuracy: float
    # Bytes of its weights.
    nbytes: int
    # Against the model as trained, over the held-out set; None for that model itself.
    max_abs_error: float | None = None
    # Share of held-out rows whose label is the same as the trained model's.
    agreement: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Packaged:
    """The bundle, and the function folder around it."""

    bundle_nbytes: int
    function_nbytes: int
    buckets: tuple[int, ...]
    targets: tuple[str, ...]
    # Rows on which packaged answers were held against the in-process model.
    verified_rows: int
    max_abs_error: float
    atol: float
    rtol: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Calls:
    """Calls of the warm function, as the client measured them."""

    # Seconds of each call of one row, in the order they were made.
    latencies_s: tuple[float, ...]
    batched_rows: int
    batched_duration_s: float
    # Largest |answer - in-process model| over every answer.
    max_abs_error: float
    # Answers outside the tolerance of the bundle's own verification.
    differing: int

    @property
    def single_rows_per_s(self) -> float:
        """Rows answered per second when every call carries one row."""
        return len(self.latencies_s) / sum(self.latencies_s)

    @property
    def batched_rows_per_s(self) -> float:
        """Rows answered per second when frames carry many."""
        return self.batched_rows / self.batched_duration_s

    @property
    def checked(self) -> int:
        """Number of answers compared with the in-process model: all of them."""
        return len(self.latencies_s) + self.batched_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One held-out digit and the endpoint's answer."""

    # [H, W], 0 is paper and 1 is ink.
    image: Array
    label: int
    predicted: int
    # Probability that the model gives to its prediction.
    confidence: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """The machine that the figures were measured on; without it they mean nothing."""

    processor: str
    cores: int
    memory_nbytes: int
    system: str
    # Version by name: Python, jax, jaxlib, …
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoResult:
    """Everything that the report shows."""

    # UTC, RFC 3339.
    started: str
    training: Training
    # As trained first, then quantized.
    variants: tuple[ModelVariant, ...]
    packaged: Packaged
    cold_start: ColdStart
    calls: Calls
    # [C, C] counts: row = true digit, column = predicted digit; as the endpoint answered.
    confusion: Array
    samples: tuple[Sample, ...]
    # The demo's own stages.
    stages: tuple[Stage, ...]
    machine: Machine


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerCheck:
    """One promise of the demo, and True if it was kept."""

    name: str
    passed: bool
    found: str


def checks(result: DemoResult) -> tuple[AnswerCheck, ...]:
    """Return the conditions for the demo to have passed."""
    return (
        *(
            AnswerCheck(
                name=f"{variant.name}: at least {percent(ACCURACY_WANTED, digits=0)} right",
                passed=variant.accuracy >= ACCURACY_WANTED,
                found=percent(variant.accuracy),
            )
            for variant in result.variants
        ),
        AnswerCheck(
            name="every answer equals the in-process model's",
            passed=result.calls.differing == 0 and result.calls.checked > 0,
            found=f"{result.calls.checked - result.calls.differing:,} of {result.calls.checked:,}",
        ),
        AnswerCheck(
            name="the function ran its compiled executable",
            passed=result.cold_start.tier == "executable",
            found=f"tier {result.cold_start.tier}",
        ),
    )


def quantile(values: tuple[float, ...], share: float) -> float:
    """Return the smallest value that at least ``share`` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def to_document(result: DemoResult) -> dict[str, Any]:
    """Return the result for ``--json``: plain JSON values, without the pictures."""
    document = asdict(result)
    del document["samples"]
    calls, cold_start = result.calls, result.cold_start
    document["confusion"] = result.confusion.tolist()
    document["calls"] |= {
        "p50_s": statistics.median(calls.latencies_s),
        "p99_s": quantile(calls.latencies_s, 0.99),
        "single_rows_per_s": calls.single_rows_per_s,
        "batched_rows_per_s": calls.batched_rows_per_s,
        "checked": calls.checked,
    }
    document["cold_start"] |= {
        "function_s": cold_start.function_s,
        "empty_s": cold_start.empty_s,
        "ratio": cold_start.ratio,
    }
    document["checks"] = [asdict(check) for check in checks(result)]
    return document
