"""Validation of data before a step: labels against the model's output, batches' specs.

The rule it keeps: bad data is found on the host, before the step that would have learnt from it,
and is reported with the first bad row and the number of bad rows. Nothing here touches a device.

Dimension letters: B rows, T tokens of a row, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import jax
import numpy as np

from maas_sdk.errors import InputError
from maas_sdk.tensors import Array

__all__ = ["check_batch", "check_labels", "describe_batch"]

# How far from 1 the shares of a row may add up: rounding, of float16 too, which has 11 bits.
_SHARES: Final = 1e-3


def check_labels(labels: Array, classes: int, *, where: str = "labels") -> None:
    """Refuse labels outside the range of a softmax over ``classes`` outputs.

    (XLA clamps an index that is out of range, and the loss of such a row would be that of another
    class, without a word.)

    Args:
        labels: integer[B] or integer[B, T]; or soft targets, float[B, K], each row of which adds up
            to 1 within 1e-3.
        classes: K, the width of the model's output.
        where: how the message calls them.

    Raises:
        InputError: no integers; one below 0 or above K - 1; soft targets that are negative, no
            numbers, or do not add up to 1, as values to regress on do not.
    """
    if labels.dtype.kind == "f" and labels.ndim > 1 and labels.shape[-1] == classes:
        _check_shares(labels, where)
        return
    if labels.dtype.kind not in "iu":
        raise InputError(
            f"{where}: expected integers, the number of each row's class, got {labels.dtype}; for "
            "values to regress on, choose loss='mse'"
        )
    # Two passes in the usual case, and no array of the labels' size.
    if labels.size == 0 or (labels.min() >= 0 and labels.max() < classes):
        return
    wrong = (labels < 0) | (labels >= classes)
    rows = np.flatnonzero(wrong.reshape(len(labels), -1).any(axis=1))
    first = labels[rows[0]]
    value = first if first.ndim == 0 else first[wrong[rows[0]]].flat[0]
    raise InputError(
        f"{where}: expected 0 to {classes - 1}, as the model's output is {classes} wide, but row "
        f"{rows[0]} has {value} ({len(rows)} of {len(labels)} rows are out of range): number the "
        "classes from 0, or give the model an output for each; what should not count gets any "
        "class and 'weights' of 0",
        rows=rows,
        classes=classes,
    )


def _check_shares(labels: Array, where: str) -> None:
    """Refuse soft targets [B, K] with a row that is no distribution over the classes."""
    otherwise = "; for values to regress on, choose loss='mse'"
    if not (labels >= 0).all():  # NaN among them
        raise InputError(
            f"{where}: soft targets are shares of the classes, 0 or more; got "
            f"{float(labels.min()):.3g}{otherwise}"
        )
    sums = labels.sum(axis=-1, dtype=np.float64).reshape(len(labels), -1)
    rows = np.flatnonzero((np.abs(sums - 1) > _SHARES).any(axis=1))
    if rows.size:
        raise InputError(
            f"{where}: soft targets are shares of the classes and add up to 1 in each row, but row "
            f"{rows[0]} adds up to {sums[rows[0]].flat[0]:.4g} ({len(rows)} of {len(labels)} rows "
            f"do not){otherwise}",
            rows=rows,
        )


def check_batch(where: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse a batch that differs in spec from the one that the step was compiled for.

    Raises:
        InputError: other names, shapes or dtypes.
    """
    if describe_batch(expected) != describe_batch(found):
        raise InputError(
            f"{where}: expected a batch like the first one, {describe_batch(expected)}, got "
            f"{describe_batch(found)}"
        )


def describe_batch(batch: Mapping[str, Any]) -> str:
    """Format a batch's spec: ``"inputs float32[64, 8, 8, 1], labels int32[64]"``."""

    def words(array: Any) -> str:
        # As a device would have it: jax narrows 64-bit types.
        dtype = array.dtype if hasattr(array, "dtype") else np.asarray(array).dtype
        return f"{jax.dtypes.canonicalize_dtype(dtype)}{list(np.shape(array))}"

    return ", ".join(f"{name} {words(array)}" for name, array in sorted(batch.items()))
