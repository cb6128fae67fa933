"""Programs and example inputs of an export, checked before anything is traced.

The rule: example inputs are rows. Their first dimension is B, the batch; their dtype and other
dimensions become the signature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from maas_sdk.errors import ExportError, InputError
from maas_sdk.export.events import Reporter
from maas_sdk.model.adapt import ProgramFn
from maas_sdk.tensors import Array, dtype_name

__all__ = [
    "DEFAULT_BUCKETS",
    "ExampleInputs",
    "ExportRequest",
    "ProgramSpec",
    "check_buckets",
    "requests",
]

DEFAULT_BUCKETS = (1, 2, 4, 8, 16, 32, 64)

# The name of the input when the example is one array.
_BARE_INPUT = "input"


@dataclass(frozen=True, kw_only=True)
class ProgramSpec:
    """One named program, where a function alone is not enough."""

    # A function (model, inputs), a method's name, or None for the model's own call.
    fn: ProgramFn = None
    # None: the export's example inputs.
    example_inputs: Any = None
    # None: the export's buckets.
    buckets: Sequence[int] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleInputs:
    """Example rows of one program."""

    # By name, sorted; each of shape [B, …] with the same B ≥ 1.
    arrays: Mapping[str, Array]
    # The example came as one array without a name.
    bare: bool

    @property
    def rows(self) -> int:
        """Number B of rows."""
        return int(next(iter(self.arrays.values())).shape[0])

    def take(self, rows: int) -> dict[str, Array]:
        """Return the first ``rows`` rows, starting over where the examples end."""
        index = np.arange(rows) % self.rows
        return {name: array[index] for name, array in self.arrays.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportRequest:
    """One program to export."""

    name: str
    fn: ProgramFn
    examples: ExampleInputs
    buckets: tuple[int, ...]


def requests(
    programs: Mapping[str, ProgramFn | ProgramSpec] | None,
    example_inputs: Any,
    buckets: Iterable[int],
    report: Reporter,
) -> tuple[ExportRequest, ...]:
    """Return the programs to export.

    Raises:
        ExportError: no program, bad buckets, examples that are no batch of numbers.
    """
    if programs is not None and not programs:
        raise ExportError("programs={} exports nothing: leave it out, or name a program")
    found = []
    for name, value in (programs or {"predict": None}).items():
        spec = value if isinstance(value, ProgramSpec) else ProgramSpec(fn=value)
        given = example_inputs if spec.example_inputs is None else spec.example_inputs
        found.append(
            ExportRequest(
                name=name,
                fn=spec.fn,
                examples=_examples(given, f"program {name!r}", report),
                buckets=check_buckets(buckets if spec.buckets is None else spec.buckets),
            )
        )
    return tuple(found)


def check_buckets(buckets: Iterable[int]) -> tuple[int, ...]:
    """Return batch sizes, ascending and each once.

    Raises:
        ExportError: none, or one that is not a whole number ≥ 1.
    """
    sizes = list(buckets)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
            raise ExportError(f"buckets: expected whole numbers ≥ 1, got {size!r}")
    if not sizes:
        raise ExportError("buckets: expected at least one batch size, for instance (1, 8, 64)")
    return tuple(sorted({int(size) for size in sizes}))


def _examples(given: Any, where: str, report: Reporter) -> ExampleInputs:
    bare = not isinstance(given, Mapping)
    named = {_BARE_INPUT: given} if bare else dict(given)
    if not named:
        raise ExportError(f"{where}: the example inputs are empty; give an array or a dict of them")
    arrays: dict[str, Array] = {}
    for name, value in sorted(named.items()):
        arrays[name] = _example(name, value, where, report)
    sizes = {name: array.shape[0] for name, array in arrays.items()}
    if len(set(sizes.values())) > 1:
        raise ExportError(
            f"{where}: example inputs disagree about the batch, their first dimension: {sizes}"
        )
    if 0 in sizes.values():
        raise ExportError(f"{where}: the example inputs have no rows; give at least one")
    return ExampleInputs(arrays=arrays, bare=bare)


def _example(name: str, value: Any, where: str, report: Reporter) -> Array:
    array = np.asarray(value)
    try:
        dtype_name(array.dtype)
    except InputError as error:
        raise ExportError(f"{where}, example input {name!r}: {error}", input=name) from error
    if array.ndim == 0:
        raise ExportError(
            f"{where}, example input {name!r}: expected a leading batch dimension, got a scalar; "
            "a single row is x[None]",
            input=name,
        )
    taken = jax.dtypes.canonicalize_dtype(array.dtype)
    if taken != array.dtype:
        report.warn(
            "trace",
            f"{where}, example input {name!r} is {array.dtype}, but the program takes {taken}: "
            "jax narrows 64-bit types unless jax_enable_x64 is on, and callers must send "
            f"{taken}",
        )
        array = array.astype(taken)
    return array
