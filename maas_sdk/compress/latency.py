"""Seconds of a batch, before and after quantization, of the programs that would be served.

The rule it keeps: both models are exported for this machine and run by the code that serves them;
what is compared is what a bundle would do. They take turns, so that a machine that is busy for a
while is busy for both.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from maas_sdk.bundle.compression import Latency
from maas_sdk.errors import ConfigError
from maas_sdk.export.package import export
from maas_sdk.export.targets import default_targets
from maas_sdk.runtime.engine import Engine
from maas_sdk.runtime.load import load
from maas_sdk.tensors import Array

__all__ = ["Timed", "latency"]

# Turns of each model, and the least that one lasts: calls of microseconds come many at a time.
_TURNS: Final = 9
_TURN_S: Final = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """What was measured."""

    target: str
    # By batch size.
    latency_s: Mapping[int, Latency]


def latency(
    before: Any,
    after: Any,
    example: Mapping[str, Array],
    buckets: Sequence[int],
    *,
    bare: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Timed:
    """Export both models and time their compiled programs.

    Args:
        before: the float model; as ``export`` takes it, or taken apart.
        after: the quantized model.
        example: a few rows by input name.
        buckets: batch sizes.
        bare: the model takes one array without a name.
        progress: told (done, total): two exports, then one batch size after another.

    Returns:
        Per batch size, the median over the turns of each.

    Raises:
        ConfigError: this machine can compile for no target.
        ExportError: a model cannot be exported.
    """
    targets = default_targets()[:1]
    if not targets:
        raise ConfigError("latency_buckets: this machine compiles for no target of export")
    rows: Any = example["input"] if bare else dict(example)
    sizes = sorted(set(buckets))
    total = 2 + len(sizes)
    found: dict[int, Latency] = {}
    with contextlib.ExitStack() as stack:
        engines: list[Engine] = []
        for model in (before, after):
            progress(len(engines), total)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="maas-latency-"))
            bundle = export(
                _Apart(model) if not hasattr(model, "as_model") else model,
                rows,
                path=Path(folder) / "model.maas",
                buckets=sizes,
                targets=targets,
            )
            engines.append(stack.enter_context(load(bundle.path, tier="executable")))
        for size in sizes:
            progress(2 + len(found), total)
            batch = {
                name: np.resize(array, (size, *array.shape[1:])) for name, array in example.items()
            }
            turns = [_turn(engine, batch) for engine in engines]
            taken = [[turn() for turn in turns] for _ in range(_TURNS)]
            found[size] = Latency(*(statistics.median(side) for side in zip(*taken, strict=True)))
    progress(total, total)
    return Timed(target=targets[0], latency_s=found)


def _turn(engine: Engine, batch: Mapping[str, Array]) -> Callable[[], float]:
    """What measures the seconds of one call."""

    def calls(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            engine.run(batch)
        return (time.perf_counter() - began) / count

    calls(1)
    count = max(1, round(_TURN_S / calls(1)))
    return lambda: calls(count)


class _Apart:
    """A model that is taken apart already, for ``export``."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def as_model(self) -> Any:
        """The model."""
        return self._model
