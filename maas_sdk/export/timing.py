"""Timing of several bundles against one another, run by the runtime.

The rule it keeps: bundles run in turns, so that a busy machine slows all of them.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from maas_sdk.runtime.engine import Engine
from maas_sdk.runtime.load import load
from maas_sdk.tensors import Array

__all__ = ["run_seconds"]

# Turns of each, and the least that one lasts: calls of microseconds come many at a time.
_TURNS: Final = 9
_TURN_S: Final = 0.01


def run_seconds(
    bundles: Sequence[Path],
    example: Mapping[str, Array],
    sizes: Sequence[int],
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[int, tuple[float, ...]]:
    """Measure seconds of one batch, by batch size and bundle: the median over the turns.

    Args:
        bundles: their folders, each with an executable that this machine can run.
        example: a few rows by input name, repeated up to a batch.
        sizes: batch sizes.
        progress: told how many sizes are done.

    Raises:
        IncompatibleError: an executable does not run here.
        InputError: the rows are not what a bundle takes.
    """
    found: dict[int, tuple[float, ...]] = {}
    with contextlib.ExitStack() as stack:
        engines = [stack.enter_context(load(path, tier="executable")) for path in bundles]
        for size in sizes:
            progress(len(found))
            batch = {
                name: np.resize(array, (size, *array.shape[1:])) for name, array in example.items()
            }
            turns = [_turn(engine, batch) for engine in engines]
            taken = [[turn() for turn in turns] for _ in range(_TURNS)]
            found[size] = tuple(statistics.median(side) for side in zip(*taken, strict=True))
    progress(len(found))
    return found


def _turn(engine: Engine, batch: Mapping[str, Array]) -> Callable[[], float]:
    """Return a function that measures the seconds of one call."""

    def calls(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            engine.run(batch)
        return (time.perf_counter() - began) / count

    calls(1)
    count = max(1, round(_TURN_S / calls(1)))
    return lambda: calls(count)
