"""Seconds of a batch, before and after quantization, of the programs that would be served.

The rule it keeps: both models are exported for this machine and run by the code that serves them,
as a bundle would be. They take turns, so that a busy machine slows both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maas_sdk.bundle.compression import LatencyRecord
from maas_sdk.errors import MachineError
from maas_sdk.export.package import export
from maas_sdk.export.targets.names import default_targets
from maas_sdk.export.timing import run_seconds
from maas_sdk.tensors import Array

__all__ = ["Timed", "latency"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """Measured seconds of both models."""

    target: str
    # By batch size.
    latency_s: Mapping[int, LatencyRecord]


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
        MachineError: this machine can compile for no target.
        ExportError: a model cannot be exported.
    """
    targets = default_targets()[:1]
    if not targets:
        raise MachineError("latency_buckets: this machine compiles for no target of export")
    rows: Any = example["input"] if bare else dict(example)
    sizes = sorted(set(buckets))
    total = 2 + len(sizes)
    with tempfile.TemporaryDirectory(prefix="maas-latency-") as folder:
        paths: list[Path] = []
        for model in (before, after):
            progress(len(paths), total)
            path = Path(folder) / f"{len(paths)}.maas"
            export(
                _Apart(model) if not hasattr(model, "as_model") else model,
                rows,
                path=path,
                buckets=sizes,
                targets=targets,
            )
            paths.append(path)
        found = run_seconds(paths, example, sizes, progress=lambda done: progress(2 + done, total))
    return Timed(
        target=targets[0], latency_s={size: LatencyRecord(*pair) for size, pair in found.items()}
    )


class _Apart:
    """A model already split into leaves and program, for ``export``."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def as_model(self) -> Any:
        """Return the model."""
        return self._model
