"""What compression took and what it cost: bytes, error and accuracy, before and after.

The rule it keeps: every figure is measured on the two models themselves. Errors are of weights
(layer by layer, after scaling back to float) and of outputs (on the rows that were handed in).

    relative L2 = ‖after - before‖ / ‖before‖,   SQNR = -20 · log10(relative L2) dB

Dimension letters: N rows, K classes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from flax import nnx

from maas_sdk.compress.quantize import parameters
from maas_sdk.errors import InputError
from maas_sdk.evaluate.accuracy import accuracy
from maas_sdk.evaluate.predict import predict
from maas_sdk.tensors import Array

__all__ = ["CompressionReport", "LayerReport", "TensorError", "compare", "tensor_error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorError:
    """How far a tensor is from the one it stands for."""

    # Largest |after - before|.
    max_abs: float
    # ‖after - before‖ / ‖before‖; 0 when both are zero.
    relative_l2: float
    # Signal to quantization noise in dB; None when there is no noise at all.
    sqnr_db: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerReport:
    """One parameter before and after."""

    # Path in the model, such as "hidden/kernel".
    path: str
    shape: tuple[int, ...]
    dtype_before: str
    dtype_after: str
    # Scales are counted in.
    bytes_before: int
    bytes_after: int
    error: TensorError


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressionReport:
    """A model before and after compression."""

    # Of all parameters, scales counted in.
    bytes_before: int
    bytes_after: int
    # In the order of the module.
    layers: tuple[LayerReport, ...]
    # Of the outputs, over all rows compared.
    output_error: TensorError
    # Rows compared.
    rows: int
    # Share of rows whose most likely class stayed the same.
    agreement: float
    # Share of rows that are right.
    accuracy_before: float
    accuracy_after: float

    @property
    def ratio(self) -> float:
        """How many times smaller the parameters became."""
        return self.bytes_before / self.bytes_after

    @property
    def accuracy_drop(self) -> float:
        """Accuracy lost, as a share of all rows; negative when some was gained."""
        return self.accuracy_before - self.accuracy_after

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values, ``ratio`` and ``accuracy_drop`` included."""
        return {**asdict(self), "ratio": self.ratio, "accuracy_drop": self.accuracy_drop}


def tensor_error(before: Array, after: Array) -> TensorError:
    """The error of ``after`` against ``before``, computed in float64.

    Raises:
        InputError: the shapes differ.
    """
    if before.shape != after.shape:
        raise InputError(
            f"cannot compare a tensor of shape {list(before.shape)} with one of {list(after.shape)}"
        )
    reference = before.astype(np.float64)
    difference = after.astype(np.float64) - reference
    noise, signal = float(np.linalg.norm(difference)), float(np.linalg.norm(reference))
    relative = 0.0 if noise == 0 else noise / signal if signal else float("inf")
    return TensorError(
        max_abs=float(np.abs(difference).max(initial=0.0)),
        relative_l2=relative,
        sqnr_db=None if relative == 0 else float(-20 * np.log10(relative)),
    )


def compare(
    before: nnx.Module, after: nnx.Module, *, inputs: Array, labels: Array
) -> CompressionReport:
    """Measure a compressed classifier against the one it came from.

    Args:
        before: the model, ``[N, …]`` to logits ``[N, K]``, in eval mode.
        after: the same model compressed.
        inputs: ``[N, …]``, rows that neither was trained on.
        labels: integer[N].

    Raises:
        InputError: the two do not have the same parameters, or inputs and labels do not fit.
    """
    old = {path: np.asarray(value) for path, value in parameters(before).items()}
    new = {path: np.asarray(value) for path, value in parameters(after).items()}
    layers = tuple(_layer(path, value, new) for path, value in old.items())
    logits_before, logits_after = predict(before, inputs), predict(after, inputs)
    return CompressionReport(
        bytes_before=sum(value.nbytes for value in old.values()),
        bytes_after=sum(value.nbytes for value in new.values()),
        layers=layers,
        output_error=tensor_error(logits_before, logits_after),
        rows=len(inputs),
        agreement=accuracy(logits_after, np.argmax(logits_before, axis=-1)),
        accuracy_before=accuracy(logits_before, labels),
        accuracy_after=accuracy(logits_after, labels),
    )


def _layer(path: str, value: Array, new: dict[str, Array]) -> LayerReport:
    """One parameter against its namesake, or against its quantized value times its scale."""
    if path in new:
        stored, restored = new[path], new[path]
        bytes_after = stored.nbytes
    elif f"{path}/qvalue" in new:
        stored, scale = new[f"{path}/qvalue"], new[f"{path}/scale"]
        restored = stored * scale
        bytes_after = stored.nbytes + scale.nbytes
    else:
        raise InputError(
            f"the compressed model has no parameter {path!r}; it has {', '.join(sorted(new))}"
        )
    return LayerReport(
        path=path,
        shape=value.shape,
        dtype_before=value.dtype.name,
        dtype_after=stored.dtype.name,
        bytes_before=value.nbytes,
        bytes_after=bytes_after,
        error=tensor_error(value, restored),
    )
