"""Products with a weight that is decoded piece by piece along its output channels.

A weight that is decoded whole goes through memory in float32, at four to eight times the bytes of
its codes: on a CPU that is slower than the float model, and holds the largest weight once more.
A piece stays in the processor's cache between its decoding and its product, so that only codes are
read from memory: at one row of 4096 × 4096 that is two thirds of float32's time, and 1 MB.

The rule it keeps: every sum is over the same numbers as with the whole weight. Other processors
decode the whole weight, inside their product where they can.

Dimension letters: O output channels (along the stored weight's first axis), r of one piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import jax
import jax.numpy as jnp

from maas_sdk.bundle.encoding.spec import Encoding

__all__ = ["PIECE_NBYTES", "Rows", "by_piece", "rows_of"]

# Of a decoded piece. A small one is decoded by one thread; for more than a few, pieces that XLA
# gives to all threads are faster (768 × 768: 0.2 against 0.6 ms; 4096 × 4096: 5.4 against 4.4 ms).
PIECE_NBYTES: Final = 2**18
_LARGE_PIECE: Final = 2**21
_LARGE: Final = 2**23


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Stored parts of a weight: those with an entry per row of the weight, and the others."""

    # Rows of the weight, along its first axis as it is stored.
    count: int
    # By name: [count, …], and what all rows share.
    own: Mapping[str, Any]
    shared: Mapping[str, Any]
    encodings: Mapping[str, Encoding]

    @property
    def nbytes(self) -> int:
        """Bytes of the weight in float32."""
        return 4 * max(math.prod(found.shape) for found in self.encodings.values())

    def some(self, size: int) -> dict[str, Encoding]:
        """Return the encodings of ``size`` of the rows."""
        return {
            name: replace(found, shape=(size, *found.shape[1:]))
            for name, found in self.encodings.items()
        }


def rows_of(encodings: Mapping[str, Encoding], parts: Mapping[str, Any], count: int) -> Rows | None:
    """Split a weight's storage by rows; None where a row cannot be decoded by itself.

    Args:
        encodings: of the weight and of what it is made from.
        parts: the stored tensors.
        count: rows of the weight.
    """
    if not all(_by_row(found, count) for found in encodings.values()):
        return None
    own: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    for name, part in parts.items():
        # A codebook or a scale that all rows share.
        if part.ndim == 1 or part.shape[0] == 1 != count:
            shared[name] = part
        elif part.shape[0] == count:
            own[name] = part
        else:
            return None
    return Rows(count=count, own=own, shared=shared, encodings=encodings)


def by_piece(
    rows: Rows,
    multiply: Callable[[Mapping[str, Encoding], Mapping[str, Any]], Any],
) -> Any:
    """Compute a product whose result is filled in piece by piece.

    Args:
        rows: of the weight.
        multiply: (encodings, tensors) of r rows → the result for them, [r, …].

    Returns:
        The result for all rows, [O, …].
    """
    nbytes = _LARGE_PIECE if rows.nbytes > _LARGE else PIECE_NBYTES
    size = min(rows.count, max(1, nbytes * rows.count // max(rows.nbytes, 1)))
    encodings = rows.some(size)

    def step(index: Any, result: Any) -> Any:
        # The last piece begins early enough to be whole: some of its rows are computed twice.
        start = jnp.minimum(index * size, rows.count - size)
        cut = {name: _cut(part, start, size) for name, part in rows.own.items()}
        found = multiply(encodings, {**rows.shared, **cut})
        return jax.lax.dynamic_update_slice_in_dim(result, found, start, 0)

    some = {name: part[:size] for name, part in rows.own.items()}
    one = jax.eval_shape(lambda: multiply(encodings, {**rows.shared, **some}))
    empty = jnp.zeros((rows.count, *one.shape[1:]), one.dtype)
    return jax.lax.fori_loop(0, math.ceil(rows.count / size), step, empty)


def _cut(part: Any, start: Any, size: int) -> Any:
    """Slice rows of an array; float8 as bytes, since XLA:CPU would convert all to float16 first."""
    if part.dtype.itemsize > 1 or jnp.issubdtype(part.dtype, jnp.integer):
        return jax.lax.dynamic_slice_in_dim(part, start, size)
    raw = jax.lax.bitcast_convert_type(part, jnp.uint8)
    return jax.lax.bitcast_convert_type(jax.lax.dynamic_slice_in_dim(raw, start, size), part.dtype)


def _by_row(encoding: Encoding, count: int) -> bool:
    """Return True when rows of an encoded tensor can be decoded by themselves."""
    return (
        encoding.scheme not in ("bitmap", "hashed")
        and encoding.shape[:1] == (count,)
        and not (encoding.scheme == "packed" and encoding.params["axis"] == 0)
    )
