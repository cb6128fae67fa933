"""Calibration rows as a bounded number of checked batches.

The rule it keeps: bad rows are refused before any work is done, with the row and what is wrong.

Dimension letters: N rows, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np

from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import Array

__all__ = ["batches_of", "example_of"]

_BATCH: Final = 64


def batches_of(
    calibration: Any, *, rows: int, like: Mapping[str, Array] | None = None
) -> list[dict[str, Array]]:
    """Return calibration rows as batches of inputs by name; ``input`` for those without one.

    Args:
        calibration: an array [N, …], a dict of arrays, an object with ``inputs``, or an iterable of
            such, each a batch [B, …].
        rows: how many are taken at most; an endless iterator is left there.
        like: rows that the model is known to take; others of another shape or dtype are refused.

    Raises:
        ConfigError: nothing that could be rows.
        InputError: no rows; NaN or infinity; one single value throughout; another shape.
    """
    found: list[dict[str, Array]] = []
    taken = 0
    for batch in _parts(calibration):
        _check(batch, taken, found[0] if found else like)
        size = len(next(iter(batch.values())))
        kept = min(size, rows - taken)
        found.append({name: array[:kept] for name, array in batch.items()})
        taken += kept
        if taken >= rows:
            break
    if not taken:
        raise InputError("calibration: there are no rows; a few hundred real ones are best")
    for name in found[0]:
        parts = [batch[name] for batch in found]
        first = parts[0].reshape(-1)[:1]
        if first.size and all((part == first).all() for part in parts) and taken > 1:
            raise InputError(
                f"calibration: all {taken} rows of {name!r} hold the single value {first[0]}, "
                "which gives activations no range: give real rows, or a recipe that needs none "
                "(int8, int8w, int4w)",
                input=name,
            )
    return found


def example_of(given: Any) -> dict[str, Array]:
    """Return inputs by name, from one array or a dict of them."""
    if hasattr(given, "inputs"):
        given = given.inputs
    if isinstance(given, Mapping):
        return {name: np.asarray(array) for name, array in sorted(given.items())}
    return {"input": np.asarray(given)}


def _parts(calibration: Any) -> Iterator[dict[str, Array]]:
    if hasattr(calibration, "inputs"):
        calibration = calibration.inputs
    if isinstance(calibration, Mapping) or hasattr(calibration, "shape"):
        arrays = example_of(calibration)
        sizes = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
        if len(set(sizes.values())) != 1:
            raise InputError(f"calibration: inputs disagree about the number of rows: {sizes}")
        for start in range(0, next(iter(sizes.values())), _BATCH):
            yield {name: array[start : start + _BATCH] for name, array in arrays.items()}
        return
    if not isinstance(calibration, Iterable) or isinstance(calibration, (str, bytes)):
        raise ConfigError(
            "calibration: expected an array, a dict of arrays, an object with inputs, or an "
            f"iterable of such, got {type(calibration).__name__}"
        )
    for batch in calibration:
        # Pairs of inputs and labels, as loaders give them.
        yield example_of(batch[0] if isinstance(batch, (tuple, list)) else batch)


def _check(batch: Mapping[str, Array], before: int, like: Mapping[str, Array] | None) -> None:
    for name, array in batch.items():
        if array.ndim == 0 or array.dtype.kind in "OSU":
            raise InputError(
                f"calibration: {name!r}: expected rows of numbers [B, …], got "
                f"{array.dtype}{list(array.shape)}",
                input=name,
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = np.argwhere(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
            row = before + int(bad[0, 0])
            raise InputError(
                f"calibration: row {row} of {name!r} holds NaN or infinity ({len(bad)} rows of its "
                "batch do): leave such rows out",
                input=name,
                row=row,
            )
    if like is None:
        return
    wanted = {name: (array.shape[1:], array.dtype.kind) for name, array in like.items()}
    came = {name: (array.shape[1:], array.dtype.kind) for name, array in batch.items()}
    if wanted != came:
        raise InputError(
            "calibration: expected rows as the model takes them, "
            + ", ".join(
                f"{n}: {a.dtype}[B, {', '.join(map(str, a.shape[1:]))}]" for n, a in like.items()
            )
            + "; got "
            + ", ".join(
                f"{n}: {a.dtype}[B, {', '.join(map(str, a.shape[1:]))}]" for n, a in batch.items()
            )
        )
