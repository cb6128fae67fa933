"""Storage of a bundle's weights and the effect of compression, as lines for a terminal."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from maas_sdk.bundle.compression import Compression
    from maas_sdk.bundle.encoding.spec import Encoding
    from maas_sdk.bundle.manifest import Manifest

__all__ = ["compression_lines", "encoding_lines"]


def compression_lines(found: Compression) -> list[str]:
    """Return bytes, metric and latency before and after, then weights by format."""
    from maas_sdk.charts.quantities import data_size

    lines = [
        f"{data_size(found.bytes_before)} → {data_size(found.bytes_stored)} stored, "
        f"{data_size(found.bytes_memory)} while served"
    ]
    if found.before is not None and found.after is not None:
        lines.append(f"{found.metric or 'metric'}: {found.before:.4f} → {found.after:.4f}")
    for bucket, seconds in found.latency_s.items():
        lines.append(
            f"batch of {bucket}: {1e3 * seconds.before:.3f} → {1e3 * seconds.after:.3f} ms"
        )
    for form, count in Counter(layer.format for layer in found.layers).items():
        stored = sum(layer.bytes_stored for layer in found.layers if layer.format == form)
        lines.append(f"{count} × {form}, {data_size(stored)}")
    return lines


def encoding_lines(manifest: Manifest) -> list[str]:
    """Return encoded tensors by scheme, and the place of decoding: the program, or opening."""
    encodings = manifest.encodings
    taken = {name for program in manifest.programs.values() for name in program.weights}
    parts = {part for encoding in encodings.values() for part in encoding.parts.values()}
    opened = taken & encodings.keys()
    counts = Counter(
        (name in opened, _chain(name, encodings, opened - {name}))
        for name in encodings
        # A part is told with the whole, unless a program takes it: then both are told.
        if name in opened or name not in parts
    )
    return [
        f"{count} × {chain}, {'decoded while it opens' if at_once else 'decoded by the program'}"
        for (at_once, chain), count in sorted(counts.items())
    ]


def _chain(name: str, encodings: Mapping[str, Encoding], stop: set[str]) -> str:
    """Format an encoding with those that it is made from: "scaled(packed)"."""
    encoding = encodings[name]
    inner = [
        _chain(part, encodings, stop)
        for part in encoding.parts.values()
        if part in encodings and part not in stop
    ]
    return encoding.scheme + (f"({', '.join(inner)})" if inner else "")
