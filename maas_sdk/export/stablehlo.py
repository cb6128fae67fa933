"""One lowered module as a portable artifact, and the checks of its content.

The rules: weights are arguments, so a module holds no large constant; and nothing calls back into
Python, which is not there where the program runs. (Other custom calls are listed; whether jaxlib
ships them is found out by the processes that compile and verify, where jax has registered none.)

This is the workshop's one file that touches jaxlib's MLIR bindings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from maas_sdk.errors import ExportError, IncompatibleError
from maas_sdk.runtime import xla

__all__ = ["CONSTANT_LIMIT_BYTES", "Portable", "portable"]

# Scalars, axes and small tables may be written into a program; a constant beyond this is data
# that every bucket and target would carry once more.
CONSTANT_LIMIT_BYTES: Final = 4096

# Custom calls that XLA resolves itself, without a registered function.
_BUILT_IN: Final = frozenset({"Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Portable:
    """A serialized program of a bundle."""

    # StableHLO portable artifact: MLIR bytecode of the VHLO dialect.
    data: bytes
    # StableHLO version it is written in, such as "0.9.0".
    version: str
    # Custom calls that need a registered function, sorted.
    custom_calls: tuple[str, ...]


def portable(module: Any, *, where: str) -> Portable:
    """Serialize a module in the oldest StableHLO version that can express it.

    Args:
        module: an MLIR module of the StableHLO and CHLO dialects.
        where: what the module is, for messages.

    Raises:
        ExportError: a large constant, or no version of StableHLO can express the module.
    """
    custom_calls = _inspect(module, where)
    # Without locations: they would carry the paths of the exporting machine into the bundle.
    text = module.operation.get_asm(enable_debug_info=False)
    reason: Exception | None = None
    for version in _versions():
        try:
            data = xla.portable_artifact(text, version)
        except IncompatibleError as error:
            reason = error
            continue
        return Portable(data=data, version=version, custom_calls=custom_calls)
    raise ExportError(f"{where}: no version of StableHLO can express it: {reason}") from reason


def _versions() -> list[str]:
    """Return every minor version that this jaxlib can write, oldest first."""
    oldest, newest = stablehlo.get_minimum_version(), stablehlo.get_current_version()
    major, minor = (int(part) for part in newest.split(".")[:2])
    return [oldest, *(f"{major}.{step}.0" for step in range(minor)), newest]


def _inspect(module: Any, where: str) -> tuple[str, ...]:
    """Return custom calls of a module; refuse large constants, which should be arguments."""
    calls: set[str] = set()
    large: list[str] = []

    def visit(op: Any) -> Any:
        name = op.name
        if name == "stablehlo.custom_call":
            calls.add(ir.StringAttr(op.attributes["call_target_name"]).value)
        elif name == "stablehlo.constant":
            kind = op.results[0].type
            nbytes = _nbytes(kind)
            if nbytes > CONSTANT_LIMIT_BYTES and not _is_splat(op):
                large.append(f"{kind} ({nbytes:,} bytes)")
        return ir.WalkResult.ADVANCE

    with module.context:
        module.operation.walk(visit)
    if large:
        raise ExportError(
            f"{where} has {len(large)} constant{'s' if len(large) > 1 else ''} over "
            f"{CONSTANT_LIMIT_BYTES:,} bytes: {', '.join(sorted(large))}. A function closed over "
            "an array: pass it as a weight instead (an nnx.Variable of the module, a linen "
            "variable, an entry of the weights of apply(weights, inputs))",
            constants=large,
        )
    if callbacks := sorted(call for call in calls if "python" in call):
        raise ExportError(
            f"{where} calls back into Python ({', '.join(callbacks)}), which is not there where it "
            "is served: leave out jax.pure_callback, io_callback and jax.debug.print",
            custom_calls=callbacks,
        )
    return tuple(sorted(calls - _BUILT_IN))


def _is_splat(constant: Any) -> bool:
    """Return True for a constant that is one repeated number: small, whatever its shape."""
    try:
        return bool(constant.attributes["value"].is_splat)
    except (AttributeError, TypeError):  # the bindings have no attribute class for complex
        return False


def _nbytes(kind: Any) -> int:
    """Return bytes of a ranked tensor type; sub-byte elements as whole bytes, indices as 8."""
    element = kind.element_type
    parts = 1
    if hasattr(element, "element_type"):  # complex
        element, parts = element.element_type, 2
    bits = int(getattr(element, "width", 64))
    return math.prod(int(size) for size in kind.shape) * parts * max(1, bits // 8)
