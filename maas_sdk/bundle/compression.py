"""Record of a bundle's compression: the manifest's field ``compression``.

The record documents the cost of a bundle's smaller size; serving does not read it. Stored bytes and
bytes in memory are separate figures, since a tensor may be stored in one form and held in another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from maas_sdk.bundle.files import strict_json as read
from maas_sdk.errors import ManifestError

__all__ = ["CompressedLayer", "Compression", "LatencyRecord", "read_compression"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressedLayer:
    """One weight of the model, and its storage."""

    # Name of the weight in the model that was compressed.
    name: str
    # In a few words: "int4, groups of 64".
    format: str
    # Stored bits per element, those of scales and codebooks included.
    bits: float
    # Of the weight as the model held it.
    bytes_before: int
    # In weights.safetensors, with all that it is decoded from.
    bytes_stored: int
    # 10 · log10(Σ w² / Σ (w - ŵ)²) in decibels; None: not measured, or nothing was lost.
    sqnr_db: float | None = None

    def __post_init__(self) -> None:
        _check_bytes(f"layer {self.name!r}", self.bytes_before, self.bytes_stored)
        if self.bits < 0:
            raise ManifestError(f"compression: layer {self.name!r}: expected bits ≥ 0")

    def document(self) -> dict[str, object]:
        """The record as JSON's values."""
        return {
            "name": self.name,
            "format": self.format,
            "bits": self.bits,
            "bytes_before": self.bytes_before,
            "bytes_stored": self.bytes_stored,
            "sqnr_db": self.sqnr_db,
        }


class LatencyRecord(NamedTuple):
    """Seconds of one run of one bucket, before and after compression."""

    before: float
    after: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Compression:
    """Compression of the whole model: the method, and its effect on size, quality and latency."""

    # Name of the recipe.
    recipe: str
    # What before and after measure, such as "accuracy"; None: nothing was measured.
    metric: str | None = None
    before: float | None = None
    after: float | None = None
    # Of all weights as the model held them.
    bytes_before: int
    # Of all tensors in weights.safetensors.
    bytes_stored: int
    # Of all weights as the serving process holds them: decoded, where the program takes them so.
    bytes_memory: int
    layers: tuple[CompressedLayer, ...] = ()
    # By bucket in digits.
    latency_s: Mapping[str, LatencyRecord] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_bytes("model", self.bytes_before, self.bytes_stored, self.bytes_memory)
        for bucket, seconds in self.latency_s.items():
            if not (bucket.isascii() and bucket.isdigit()) or min(seconds) < 0:
                raise ManifestError(
                    "compression: latency_s: expected seconds ≥ 0 by batch size in digits, got "
                    f"{bucket!r}: {tuple(seconds)}"
                )

    def document(self) -> dict[str, object]:
        """The record as JSON's values; ``read_compression`` reads them."""
        return {
            "recipe": self.recipe,
            "metric": self.metric,
            "before": self.before,
            "after": self.after,
            "bytes_before": self.bytes_before,
            "bytes_stored": self.bytes_stored,
            "bytes_memory": self.bytes_memory,
            "layers": [layer.document() for layer in self.layers],
            "latency_s": {bucket: pair._asdict() for bucket, pair in self.latency_s.items()},
        }


def _check_bytes(where: str, *counts: int) -> None:
    if min(counts) < 0:
        raise ManifestError(f"compression: {where}: expected bytes ≥ 0, got {list(counts)}")


_LAYER_IN: Final = read.record(
    CompressedLayer,
    {
        "name": read.string,
        "format": read.string,
        "bits": read.number,
        "bytes_before": read.exactly(int),
        "bytes_stored": read.exactly(int),
        "sqnr_db": read.or_null(read.number),
    },
)
_LATENCY_IN: Final = read.record(LatencyRecord, {"before": read.number, "after": read.number})
_COMPRESSION_IN: Final = read.record(
    Compression,
    {
        "recipe": read.string,
        "metric": read.or_null(read.string),
        "before": read.or_null(read.number),
        "after": read.or_null(read.number),
        "bytes_before": read.exactly(int),
        "bytes_stored": read.exactly(int),
        "bytes_memory": read.exactly(int),
        "layers": read.list_of(_LAYER_IN),
        "latency_s": read.map_of(_LATENCY_IN),
    },
)


def read_compression(value: Any, path: str) -> Compression:
    """The record from JSON's values; a reader of ``strict_json``."""
    found: Compression = _COMPRESSION_IN(value, path)
    return found
