"""Regression metrics: errors against the targets.

By numpy: each metric is one line, while scikit-learn takes no more than two dimensions.

Dimension letters: N rows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from maas_sdk.errors import InputError
from maas_sdk.tensors import Array

__all__ = ["Regression", "regression"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Regression:
    """Metrics of a regressor on rows with known targets; sums are in float64."""

    rows: int
    # Mean squared error, in the target's unit squared.
    mse: float
    # Its root, in the target's unit.
    rmse: float
    # Mean absolute error, in the target's unit.
    mae: float
    # Largest absolute error, in the target's unit.
    max_error: float
    # Mean of prediction - target: how far all of it is shifted.
    bias: float
    # Share of the targets' variance that is explained; None where all targets are equal.
    r2: float | None

    def to_dict(self) -> dict[str, object]:
        """Return the metrics as JSON-ready values."""
        return asdict(self)


def regression(outputs: Array, targets: Array) -> Regression:
    """Compute the metrics of a regressor's answers.

    Args:
        outputs: float[N, …]; one trailing dimension of 1 more than the targets is dropped.
        targets: numbers[N, …].

    Raises:
        InputError: no rows, shapes that differ, or numbers that are not finite.
    """
    if outputs.shape == (*targets.shape, 1):
        outputs = outputs[..., 0]
    if outputs.shape != targets.shape:
        raise InputError(
            f"outputs and targets must have one shape; got {list(outputs.shape)} "
            f"and {list(targets.shape)}"
        )
    if not outputs.size:
        raise InputError("expected at least one row to judge, got none")
    for name, values in (("outputs", outputs), ("targets", targets)):
        if not np.isfinite(values.astype(np.float64)).all():
            raise InputError(f"{name}: expected finite numbers, got NaN or infinity")
    wanted = targets.astype(np.float64)
    errors = outputs.astype(np.float64) - wanted
    mse = float(np.mean(errors**2))
    variance = float(np.mean((wanted - wanted.mean(axis=0)) ** 2))
    return Regression(
        rows=len(targets),
        mse=mse,
        rmse=mse**0.5,
        mae=float(np.abs(errors).mean()),
        max_error=float(np.abs(errors).max()),
        bias=float(errors.mean()),
        r2=1.0 - mse / variance if variance > 0 else None,
    )
