"""Evaluation of a model: quality, speed, memory and arithmetic cost.

The rule it keeps: a module here, a bundle's engine and a remote endpoint are evaluated by the same
code on the same rows, so that two evaluations can be compared.

Dimension letters: N rows, B rows of a batch, T tokens, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

import jax
import numpy as np
from flax import nnx

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.evaluate.accuracy import Classification, classification, scikit_learn_metrics
from maas_sdk.evaluate.answers import Inputs, answerer, rows_of, take_rows
from maas_sdk.evaluate.cost import matmul_ceiling, peak_flops
from maas_sdk.evaluate.language import Language, language
from maas_sdk.evaluate.memory import Memory, measure_memory
from maas_sdk.evaluate.regression import Regression, regression
from maas_sdk.evaluate.speed import Latency, measure_latency
from maas_sdk.tensors import Array

__all__ = ["TASKS", "Cost", "Evaluation", "Labelled", "evaluate"]

# What labels say that a model does.
TASKS: Final = ("classification", "regression", "language")

# Points of a scatter plot that are kept; more are a cloud.
_MAX_PAIRS: Final = 500


@runtime_checkable
class Labelled(Protocol):
    """Inputs and their labels, such as ``training.data.Examples``."""

    @property
    def inputs(self) -> Any:
        """Array [N, …], or several arrays by name."""

    @property
    def labels(self) -> Array:
        """Array integer[N], integer[N, T] or float[N, …]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Arithmetic per row, and its share of the device's peak."""

    # The compiler's count, a multiply and an add being two; loop bodies count once.
    flops_per_row: float
    # Model flop utilisation: flops_per_row × rows per second / ceiling.
    mfu: float
    # flop/s
    ceiling: float
    # Where the ceiling is from.
    ceiling_source: str

    def to_dict(self) -> dict[str, object]:
        """Return the figures as JSON-ready values."""
        return {
            "flops_per_row": self.flops_per_row,
            "mfu": self.mfu,
            "ceiling_flops": self.ceiling,
            "ceiling_source": self.ceiling_source,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Result of an evaluation. All times are wall times as the caller measured them."""

    name: str
    task: str
    quality: Classification | Regression | Language
    # Of calls with one row.
    latency: Latency
    # Of all rows once, in batches of ``batch_size``, after every program was compiled.
    rows_per_s: float
    batch_size: int
    memory: Memory
    # None where the program is not known here: an endpoint, an engine, a function.
    cost: Cost | None
    # Of a regression, some pairs (target, answer), for a picture.
    pairs: tuple[tuple[float, float], ...]
    # The device or the address that answered.
    where: str

    def to_dict(self) -> dict[str, object]:
        """Return everything but the single calls, as JSON-ready values."""
        return {
            "name": self.name,
            "task": self.task,
            "where": self.where,
            "quality": self.quality.to_dict(),
            "latency": self.latency.to_dict(),
            "rows_per_s": self.rows_per_s,
            "batch_size": self.batch_size,
            "memory": self.memory.to_dict(),
            "cost": None if self.cost is None else self.cost.to_dict(),
        }


def evaluate(
    model_or_endpoint: Any,
    data: Labelled | tuple[Any, Array],
    *,
    name: str | None = None,
    task: str | None = None,
    output: str | None = None,
    batch_size: int = 64,
    latency_calls: int = 50,
    class_names: Sequence[str] | None = None,
    ceiling_flops: float | None = None,
) -> Evaluation:
    """Evaluate a model on labelled rows.

    Args:
        model_or_endpoint: an nnx module in eval mode, a client of an endpoint, a loaded engine,
            anything with ``predict(inputs)``, or a function of the inputs.
        data: inputs [N, …] (or several by name) with labels, as one object or as a pair.
        name: what to call it in reports; None takes the model's class or address.
        task: out of ``TASKS``; None tells it from the labels: integer[N] are classes,
            integer[N, T] tokens, floats targets.
        output: which output is judged, where there are several.
        batch_size: B, rows in one call when rows per second are measured.
        latency_calls: calls of one row that latency is taken from.
        class_names: K names for reports; None numbers them.
        ceiling_flops: flop/s that the devices can do, for the MFU; None takes the maker's bf16
            figure, or on a device without one what a large float32 matrix product reaches here.

    Raises:
        ConfigError: an unknown task, no rows in a batch or no calls, or nothing that can be asked.
        InputError: data without rows, or outputs and labels that do not belong together.
        DependencyError: labels are classes, and scikit-learn is not installed.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size: expected 1 or more, got {batch_size}")
    inputs, labels = _parts(data)
    rows = rows_of(inputs)
    if rows == 0:
        raise InputError("expected at least one row to judge, got none")
    if labels.shape[:1] != (rows,):
        raise InputError(f"{rows} rows of inputs, but labels of shape {list(labels.shape)}")
    task = _task(labels) if task is None else task
    if task not in TASKS:
        raise ConfigError(f"task: expected one of {', '.join(TASKS)}, got {task!r}")
    if task == "classification":
        scikit_learn_metrics()  # A missing package is said before anything is asked.
    batch_size = min(batch_size, rows)
    ask = answerer(model_or_endpoint, output=output)
    starts = range(0, rows, batch_size)

    def answer_all() -> list[Array]:
        return [
            ask(take_rows(inputs, slice(start, start + batch_size)), batch_size=batch_size)
            for start in starts
        ]

    ask(take_rows(inputs, slice(0, batch_size)), batch_size=batch_size)  # compiles
    began = time.perf_counter()
    answers, memory = measure_memory(answer_all)
    rows_per_s = rows / (time.perf_counter() - began)
    flops_per_row = ask.flops_per_row
    one = take_rows(inputs, slice(0, 1))
    latency = measure_latency(lambda: ask(one, batch_size=1), calls=latency_calls)
    outputs = np.concatenate(answers)
    quality, pairs = _judge(task, outputs, labels, class_names)
    return Evaluation(
        name=name or _name(model_or_endpoint),
        task=task,
        quality=quality,
        latency=latency,
        rows_per_s=rows_per_s,
        batch_size=batch_size,
        memory=memory,
        cost=_cost(flops_per_row, rows_per_s, ceiling_flops),
        pairs=pairs,
        where=_where(model_or_endpoint),
    )


def _parts(data: Labelled | tuple[Any, Array]) -> tuple[Inputs, Array]:
    if isinstance(data, tuple) and len(data) == 2:
        return data[0], np.asarray(data[1])
    if isinstance(data, Labelled):
        return data.inputs, np.asarray(data.labels)
    raise ConfigError(
        f"data: expected a pair (inputs, labels) or an object with both, got {type(data).__name__}"
    )


def _task(labels: Array) -> str:
    if np.issubdtype(labels.dtype, np.integer) or labels.dtype == np.bool_:
        return "classification" if labels.ndim == 1 else "language"
    return "regression"


def _judge(
    task: str, outputs: Array, labels: Array, class_names: Sequence[str] | None
) -> tuple[Classification | Regression | Language, tuple[tuple[float, float], ...]]:
    # bfloat16 and its kin have no arithmetic of their own in numpy.
    outputs = outputs.astype(np.float32) if outputs.dtype.kind == "V" else outputs
    if task == "classification":
        names = None if class_names is None else tuple(map(str, class_names))
        return classification(outputs, labels.astype(np.int64), class_names=names), ()
    if task == "language":
        return language(outputs, labels), ()
    quality = regression(outputs, labels)
    step = max(1, labels.size // _MAX_PAIRS)
    pairs = zip(labels.ravel()[::step], outputs.ravel()[::step], strict=False)
    return quality, tuple((float(target), float(answer)) for target, answer in pairs)


def _cost(flops_per_row: float | None, rows_per_s: float, ceiling: float | None) -> Cost | None:
    if flops_per_row is None:
        return None
    source = "given"
    if ceiling is None:
        device = jax.devices()[0]
        ceiling = peak_flops(device)
        source = f"published bf16 peak of {device.device_kind}"
    if ceiling is None:
        ceiling = matmul_ceiling()
        source = "measured here: a float32 matrix product of 1024 × 1024"
    return Cost(
        flops_per_row=flops_per_row,
        mfu=flops_per_row * rows_per_s / ceiling,
        ceiling=ceiling,
        ceiling_source=source,
    )


def _name(target: Any) -> str:
    named = getattr(target, "__name__", None)
    return str(named) if named else type(target).__name__


def _where(target: Any) -> str:
    if isinstance(target, nnx.Module):
        device = jax.devices()[0]
        return f"in this process, on {device.device_kind}"
    return "as the caller sees it"
