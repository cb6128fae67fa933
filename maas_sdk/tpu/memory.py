"""Memory of one chip: a program's arguments by kind, and the compiler's out-of-memory figures.

The rule it keeps: arguments are counted exactly, from shapes and shardings; everything that is
only known after compiling (temporaries, code) is the compiler's own figure.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

import jax

from maas_sdk.errors import ConfigError
from maas_sdk.tpu.program import KINDS, PlannedProgram

__all__ = ["bytes_by_kind", "out_of_memory"]

# The compiler writes binary units: 15.75G of 16 GiB.
_UNITS: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE: Final = r"([\d.]+)([KMGT]?)B?"
# libtpu 0.0.42: what cannot be placed at all, and what the whole program would need.
_SHORTAGES: Final = (
    rf"total memory required for HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)",
    rf"Used {_SIZE} of {_SIZE} hbm",
)


def bytes_by_kind(program: PlannedProgram) -> dict[str, int]:
    """Return bytes of a program's arguments on one chip, for each of ``KINDS`` that is there.

    Raises:
        ConfigError: kinds that are not of the arguments' structure, or unknown.
    """
    if len(program.kinds) != len(program.arguments):
        raise ConfigError(
            f"a program of {len(program.arguments)} arguments names {len(program.kinds)} kinds"
        )
    found: dict[str, int] = {}
    for argument, kinds in zip(program.arguments, program.kinds, strict=True):
        leaves = jax.tree.leaves(argument)
        names = [kinds] * len(leaves) if isinstance(kinds, str) else jax.tree.leaves(kinds)
        for leaf, name in zip(leaves, names, strict=True):
            if name not in KINDS:
                raise ConfigError(f"unknown kind {name!r} of memory; known: {', '.join(KINDS)}")
            found[name] = found.get(name, 0) + _shard_bytes(leaf)
    return {name: found[name] for name in KINDS if name in found}


def _shard_bytes(leaf: Any) -> int:
    sharding = getattr(leaf, "sharding", None)
    shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    return math.prod(int(size) for size in shape) * int(leaf.dtype.itemsize)


def out_of_memory(message: str) -> tuple[int, int] | None:
    """Return (bytes needed, bytes available) from a compiler's out-of-memory error."""
    if "RESOURCE_EXHAUSTED" not in message and "Ran out of memory" not in message:
        return None
    for pattern in _SHORTAGES:
        if match := re.search(pattern, message):
            needs, limit = (
                round(float(number) * _UNITS[unit])
                for number, unit in ((match[1], match[2]), (match[3], match[4]))
            )
            return needs, limit
    return 0, 0
