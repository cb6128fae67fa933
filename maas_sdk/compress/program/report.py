"""Report of a quantization, as a table, JSON and a record for the bundle.

The rule it keeps: every figure is measured on the models themselves; a figure that was not
measured is absent, not guessed.

    SQNR = 10 · log10(Σ w² / Σ (w - ŵ)²) dB
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from maas_sdk.bundle.compression import CompressedLayer, Compression, LatencyRecord
from maas_sdk.charts.columns import columns
from maas_sdk.charts.quantities import data_size

__all__ = ["LayerReport", "QuantizationReport"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerReport:
    """One weight before and after."""

    # Name of the weight, such as "hidden/kernel".
    name: str
    shape: tuple[int, ...]
    # Of the format, such as "int8/channel"; "float32" for one that stayed.
    format: str
    # Bits per number, scales and codebooks included.
    bits: float
    bytes_before: int
    bytes_stored: int
    # Of the weight; None for one that stayed as it was.
    sqnr_db: float | None = None
    # ‖ŵ - w‖ / ‖w‖.
    relative_error: float | None = None
    # What this weight alone costs in the metric, where sensitivity was measured.
    drop: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationReport:
    """A model before and after quantization."""

    # Name of the recipe.
    recipe: str
    # In the order of the program; weights only.
    layers: tuple[LayerReport, ...]
    # Bytes of all arrays: of the float model, on the disk, held while served.
    bytes_before: int
    bytes_stored: int
    bytes_memory: int
    # None: no evaluation was asked for.
    metric: str | None = None
    before: float | None = None
    after: float | None = None
    # Standard error of before - after, over rows; None where rows are not judged one by one.
    drop_error: float | None = None
    # Relative error of the outputs on the example rows, ‖ŷ - y‖ / ‖y‖, the first output's.
    output_error: float | None = None
    # Seconds of one batch of the compiled program, before and after, by batch size.
    latency_s: Mapping[int, LatencyRecord] = field(default_factory=dict)
    # What the latency was measured on: a target of ``export``.
    target: str | None = None
    # What was decided on the user's behalf, and what the figures mean; sentences.
    notes: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """Bytes stored, as a share of those before."""
        return self.bytes_stored / self.bytes_before

    @property
    def drop(self) -> float | None:
        """Loss in the metric; negative for a gain."""
        if self.before is None or self.after is None:
            return None
        return self.before - self.after

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, ``ratio`` and ``drop`` included."""
        found = asdict(self)
        found["latency_s"] = {
            str(size): {"before": pair.before, "after": pair.after}
            for size, pair in self.latency_s.items()
        }
        return {**found, "ratio": self.ratio, "drop": self.drop}

    def to_json(self) -> str:
        """Return ``to_dict`` as text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)

    def rows(self) -> list[tuple[str, ...]]:
        """Return a row of text per weight: name, shape, format, bits, bytes, SQNR, cost."""
        return [
            (
                layer.name,
                "×".join(map(str, layer.shape)),
                layer.format,
                f"{layer.bits:.2f}",
                data_size(layer.bytes_stored),
                "" if layer.sqnr_db is None else f"{layer.sqnr_db:.1f} dB",
                "" if layer.drop is None else f"{layer.drop:+.4f}",
            )
            for layer in self.layers
        ]

    def table(self) -> str:
        """Return the report as text for a terminal."""
        heads = ("weight", "shape", "format", "bits", "stored", "SQNR", "drop alone")
        # Names to the left, numbers to the right.
        lines = columns([heads, *self.rows()], left=range(3))
        lines += ["", *self.summary(), *(f"note: {note}" for note in self.notes)]
        return "\n".join(lines)

    def summary(self) -> list[str]:
        """Return the model's figures in words, a line each."""
        found = [
            f"{self.recipe}: {data_size(self.bytes_before)} → {data_size(self.bytes_stored)} "
            f"stored ({self.ratio:.3f}), {data_size(self.bytes_memory)} while served"
        ]
        if self.metric is not None and self.before is not None and self.after is not None:
            error = "" if not self.drop_error else f" ± {self.drop_error:.4f}"
            found.append(
                f"{self.metric}: {self.before:.4f} → {self.after:.4f} (drop "
                f"{self.before - self.after:+.4f}{error})"
            )
        if self.output_error is not None:
            found.append(f"outputs differ by {self.output_error:.2%} of their size")
        for size, pair in self.latency_s.items():
            found.append(
                f"batch of {size} on {self.target}: {1e3 * pair.before:.3f} → "
                f"{1e3 * pair.after:.3f} ms ({pair.before / pair.after:.2f} times as fast)"
            )
        return found

    def compression(self) -> Compression:
        """Return the record that the bundle's manifest holds."""
        return Compression(
            recipe=self.recipe,
            metric=self.metric,
            before=self.before,
            after=self.after,
            bytes_before=self.bytes_before,
            bytes_stored=self.bytes_stored,
            bytes_memory=self.bytes_memory,
            layers=tuple(
                CompressedLayer(
                    name=layer.name,
                    format=layer.format,
                    bits=round(layer.bits, 4),
                    bytes_before=layer.bytes_before,
                    bytes_stored=layer.bytes_stored,
                    sqnr_db=None if layer.sqnr_db is None else round(layer.sqnr_db, 2),
                )
                for layer in self.layers
            ),
            latency_s={str(size): pair for size, pair in self.latency_s.items()},
        )
