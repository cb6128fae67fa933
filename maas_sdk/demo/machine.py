"""The machine of a measurement: its hardware, without its name."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Final

from maas_sdk.demo.result import Machine

__all__ = ["describe_machine"]

_PACKAGES: Final = ("jax", "jaxlib", "flax", "qwix", "numpy", "functions-framework", "maas-sdk")


def describe_machine(cpuinfo: Callable[[], str] | None = None) -> Machine:
    """Describe the machine, without its name or address."""
    read = cpuinfo or (lambda: Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    try:
        processor = next(
            line.partition(":")[2].strip()
            for line in read().splitlines()
            if line.startswith("model name")
        )
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return Machine(
        processor=processor,
        cores=_cores(),
        memory_nbytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.machine()}",
        versions={"Python": platform.python_version()}
        | {name: version(name) for name in _PACKAGES},
    )


def _cores() -> int:
    """Return the cores that this process may use, if known; else the machine's."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1
