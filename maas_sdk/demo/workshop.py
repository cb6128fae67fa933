"""The demo's first half, in this process: train, quantize, export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import jax
import numpy as np
from flax import nnx

from maas_sdk.bundle import Bundle
from maas_sdk.compress.program.quantized_model import QuantizedModel
from maas_sdk.compress.quantize import quantize as quantize_model
from maas_sdk.compress.task_metric import predictor
from maas_sdk.demo.config import DemoConfig
from maas_sdk.demo.digits import CLASS_NAMES, load_split
from maas_sdk.demo.result import Epoch, ModelVariant, Training
from maas_sdk.errors import MachineError
from maas_sdk.evaluate.accuracy import accuracy
from maas_sdk.evaluate.predict import predict
from maas_sdk.export import export as export_bundle
from maas_sdk.export.events import Event
from maas_sdk.models.convnet import ConvNet
from maas_sdk.tensors import Array
from maas_sdk.training.data import Split
from maas_sdk.training.hooks import EvalRecord, Record
from maas_sdk.training.precision import Policy
from maas_sdk.training.run.trainer import TrainConfig, Trainer

__all__ = ["BUCKETS", "QuantizedStage", "Report", "Trained", "export", "quantize", "train"]

Report = Callable[[int, int, str], None]

BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64)
_PRECISION: Final = Policy(params="float32", compute="bfloat16", output="float32")
_LABEL_SMOOTHING: Final = 0.05
# Rows that the export compares and keeps: real ones say more than made-up ones.
_EXAMPLE_ROWS: Final = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A trained model and its training data."""

    model: nnx.Module
    split: Split
    # Of the held-out rows, float32[N, 10].
    logits: Array
    facts: Training
    variant: ModelVariant


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedStage:
    """The int8 form of a trained model."""

    model: QuantizedModel
    # Of the held-out rows, float32[N, 10].
    logits: Array
    variant: ModelVariant


def train(config: DemoConfig, report: Report) -> Trained:
    """Train a small convnet, data-parallel, and evaluate it on the held-out digits.

    Raises:
        MachineError: JAX has another number of devices than was asked for.
    """
    if jax.local_device_count() != config.devices:
        raise MachineError(
            f"JAX has {jax.local_device_count()} devices, the demo wants {config.devices}: set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={config.devices} before it starts"
        )
    split = load_split()

    def tell(record: Record) -> None:
        if isinstance(record, EvalRecord):
            report(record.epoch, config.epochs, _words(record))

    settings = TrainConfig(
        epochs=config.epochs,
        seed=config.seed,
        precision=_PRECISION,
        label_smoothing=_LABEL_SMOOTHING,
    )
    found = Trainer(settings).fit(ConvNet(rngs=nnx.Rngs(config.seed)), split, hooks=[tell])
    logits = predict(found.model, split.test.inputs)
    weights = jax.tree.leaves(nnx.state(found.model, nnx.Param))
    return Trained(
        model=found.model,
        split=split,
        logits=logits,
        facts=Training(
            epochs=tuple(
                Epoch(
                    number=record.epoch,
                    train_loss=record.train["loss"],
                    test_loss=record.eval["loss"],
                    test_accuracy=record.eval["accuracy"],
                )
                for record in found.history
            ),
            train_rows=len(split.train),
            test_rows=len(split.test),
            parameters=sum(weight.size for weight in weights),
            mesh=f"data-parallel over {found.devices} virtual CPU devices",
            precision=f"{_PRECISION.compute} compute, {_PRECISION.params} master weights",
            seed=config.seed,
        ),
        variant=ModelVariant(
            name="as trained",
            accuracy=accuracy(logits, split.test.labels),
            nbytes=sum(weight.nbytes for weight in weights),
        ),
    )


def _words(record: EvalRecord) -> str:
    return f"loss {record.train['loss']:.3f}, held-out {100 * record.eval['accuracy']:.1f} %"


def quantize(trained: Trained) -> QuantizedStage:
    """Quantize to int8 and compare with the trained model."""
    test = trained.split.test
    found = quantize_model(trained.model, "int8", evaluate=(test.inputs, test.labels))
    logits = predictor(found.as_model())(test.inputs)
    return QuantizedStage(
        model=found,
        logits=logits,
        variant=ModelVariant(
            name="int8",
            accuracy=accuracy(logits, test.labels),
            nbytes=found.report.bytes_memory,
            max_abs_error=float(np.max(np.abs(logits - trained.logits))),
            agreement=float(np.mean(logits.argmax(1) == trained.logits.argmax(1))),
        ),
    )


def export(
    trained: Trained, quantized: QuantizedStage, config: DemoConfig, report: Report
) -> Bundle:
    """Export the quantized model for this machine's targets, verified."""
    steps = 0

    def progress(event: Event) -> None:
        nonlocal steps
        steps += 1
        # Steps are not known beforehand; a bar that never quite fills is honest about it.
        report(steps, max(_EXPORT_STEPS, steps + 1), f"{event.stage} {event.message}")

    return export_bundle(
        quantized.model,
        trained.split.train.inputs[:_EXAMPLE_ROWS],
        path=config.out / "digits.maas",
        name="digits",
        buckets=BUCKETS,
        metadata={
            "accuracy": f"{quantized.variant.accuracy:.4f}",
            "classes": " ".join(CLASS_NAMES),
            "seed": str(config.seed),
        },
        progress=progress,
        overwrite=True,
    )


# About how many events an export of seven buckets and two targets gives.
_EXPORT_STEPS: Final = 45
