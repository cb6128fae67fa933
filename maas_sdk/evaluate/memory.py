"""Peak memory of a piece of work.

The rule it keeps: a figure that cannot be had is None, never a guess. On Linux the kernel's own
high-water mark of the process is reset before the work (``man 5 proc``, ``clear_refs``); elsewhere
only the mark since the process started is known, which says nothing about the work alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TypeVar

import jax

__all__ = ["Memory", "measure_memory"]

T = TypeVar("T")

_PROCESS: Final = Path("/proc/self")


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Peaks during the work, in bytes."""

    # Resident memory of this process at its highest; None where the system does not say.
    process_peak_bytes: int | None
    # How much of that came with the work.
    process_growth_bytes: int | None
    # The accelerators' high-water mark since the process started, summed over them; None on CPUs.
    device_peak_bytes: int | None

    def to_dict(self) -> dict[str, object]:
        """Return the figures as JSON-ready values."""
        return asdict(self)


def measure_memory(work: Callable[[], T]) -> tuple[T, Memory]:
    """Run ``work``; return its result and the peak memory while it ran."""
    before = _status("VmRSS") if _reset_peak() else None
    result = work()
    peak = None if before is None else _status("VmHWM")
    return result, Memory(
        process_peak_bytes=peak,
        process_growth_bytes=None if peak is None or before is None else max(0, peak - before),
        device_peak_bytes=_device_peak(),
    )


def _reset_peak() -> bool:
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(field: str) -> int | None:
    """Return a field of /proc/self/status, which is in kB (of 1024)."""
    for line in (_PROCESS / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return None


def _device_peak() -> int | None:
    peaks = [
        stats["peak_bytes_in_use"]
        for device in jax.local_devices()
        if (stats := device.memory_stats()) and "peak_bytes_in_use" in stats
    ]
    return sum(peaks) if peaks else None
