"""Encoded tensors: made from stored tensors, their parts, by a named scheme.

Parts may be encoded themselves: 4-bit codes that are packed, scaled by scales that are scaled. The
rule: ``check_encodings`` checks every encoding against the stored tensors before any data is
touched, so that a bundle's faults are found while it opens; ``decode`` checks the data too. The
formulas, and what each expects, are in ``decode.py`` and ``registry.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from maas_sdk.bundle.encoding.decode import EncodedPart, Work, broken
from maas_sdk.bundle.encoding.registry import SCHEMES, Scheme
from maas_sdk.bundle.files import strict_json as read
from maas_sdk.bundle.files.safetensors import Spec
from maas_sdk.bundle.files.weights import aligned_empty
from maas_sdk.errors import ConfigError, InputError
from maas_sdk.tensors import BITS, Array, dtype_from_name, dtype_name, packed_nbytes

__all__ = [
    "Encoding",
    "Stored",
    "check_encodings",
    "decode",
    "decode_blocks",
    "read_encoding",
    "spec_of",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """Scheme, parts and parameters of one encoded tensor."""

    # A key of SCHEMES.
    scheme: str
    # Of the decoded tensor.
    dtype: str
    shape: tuple[int, ...]
    # Role → name of a stored tensor or of another encoding.
    parts: Mapping[str, str]
    params: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dtype not in BITS:
            dtype_from_name(self.dtype)
        if any(size < 0 for size in self.shape):
            raise InputError(f"shape {list(self.shape)}: every dimension must be a size ≥ 0")

    @property
    def spec(self) -> Spec:
        """Dtype name and shape of the decoded tensor."""
        return Spec(self.dtype, tuple(self.shape))

    def document(self) -> dict[str, object]:
        """The encoding as JSON's values; ``read_encoding`` reads them."""
        return {
            "scheme": self.scheme,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "parts": dict(self.parts),
            "params": dict(self.params),
        }


_ENCODING_IN: Final = read.record(
    Encoding,
    {
        "scheme": read.string,
        "dtype": read.string,
        "shape": read.list_of(read.exactly(int)),
        "parts": read.map_of(read.string),
        "params": read.map_of(read.exactly(int)),
    },
)


def read_encoding(value: Any, path: str) -> Encoding:
    """An encoding from JSON's values; a reader of ``strict_json``."""
    found: Encoding = _ENCODING_IN(value, path)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """One tensor as stored in a bundle, with all the parts that it is made from."""

    # Its own name: a key of encodings; of tensors where it is stored as it is.
    name: str
    encodings: Mapping[str, Encoding]
    # Stored tensors by name.
    tensors: Mapping[str, Array]

    @property
    def nbytes(self) -> int:
        """Bytes that its tensors take in ``weights.safetensors``."""
        return sum(
            packed_nbytes(dtype_name(tensor.dtype), tensor.shape)
            for tensor in self.tensors.values()
        )

    @property
    def spec(self) -> Spec:
        """Dtype name and shape of the decoded tensor."""
        made = self.encodings.get(self.name)
        return spec_of(self.tensors[self.name]) if made is None else made.spec

    def decode(self) -> Array:
        """Decode the tensor. Raises as the function ``decode``."""
        found: Array = decode(self.name, self.encodings, self.tensors)
        return found


def spec_of(array: Any) -> Spec:
    """Dtype name and shape of an array of numpy or jax, or of a tracer."""
    return Spec(dtype_name(array.dtype), tuple(array.shape))


def check_encodings(encodings: Mapping[str, Encoding], stored: Mapping[str, Spec]) -> None:
    """Check encodings against one another and against the specs of the stored tensors.

    Raises:
        CorruptError: an unknown scheme, role, parameter or part, a circle, a dtype or shape that
            does not fit. Names the tensor, what was expected and what was found.
    """
    proven: set[str] = set()
    for name in encodings:
        if name in stored:
            raise broken(name, "its name", "one of no stored tensor", "a stored tensor too")
        _prove(name, encodings, stored, proven, ())


# Parts within parts; bounds the recursion, far above what is of use.
_MAX_DEPTH: Final = 16


def _prove(
    name: str,
    encodings: Mapping[str, Encoding],
    stored: Mapping[str, Spec],
    proven: set[str],
    above: tuple[str, ...],
) -> None:
    """Check one encoding, its parts first."""
    if name in proven:
        return
    if name in above or len(above) == _MAX_DEPTH:
        what = "no tensor made from itself" if name in above else f"at most {_MAX_DEPTH} levels"
        raise broken(name, "parts", what, " ← ".join([*above, name]))
    encoding = encodings[name]
    scheme = SCHEMES.get(encoding.scheme)
    if scheme is None:
        raise broken(name, "scheme", f"one of {', '.join(sorted(SCHEMES))}", encoding.scheme)
    _check_names(name, encoding, scheme)
    specs: dict[str, Spec] = {}
    for role, part in encoding.parts.items():
        if part in encodings:
            _prove(part, encodings, stored, proven, (*above, name))
            specs[role] = encodings[part].spec
        elif part in stored:
            specs[role] = Spec(*stored[part])
        else:
            raise broken(name, role, "a stored tensor or another encoding", f"none named {part!r}")
    made = encoding.spec
    # numpy multiplies the other dimensions even where one is 0.
    elements = math.prod(size or 1 for size in made.shape)
    if len(made.shape) > 64 or elements * max(BITS[made.dtype] // 8, 1) >= 2**63:
        raise broken(name, "decoded", "at most 64 dimensions and less than 2^63 bytes", made)
    for holds, what, expected, found in scheme.fits(made, encoding.params, specs):
        if not holds:
            raise broken(name, what, expected, found)
    proven.add(name)


def _check_names(name: str, encoding: Encoding, scheme: Scheme) -> None:
    """Check roles and parameters against the scheme."""
    roles = encoding.parts.keys()
    if not scheme.roles <= roles <= scheme.roles | scheme.optional:
        optional = f", and may have {sorted(scheme.optional)}" if scheme.optional else ""
        raise broken(
            name, f"parts of {encoding.scheme}", f"{sorted(scheme.roles)}{optional}", sorted(roles)
        )
    if encoding.params.keys() != scheme.params.keys():
        raise broken(
            name, f"params of {encoding.scheme}", sorted(scheme.params), sorted(encoding.params)
        )
    for param, allowed in scheme.params.items():
        if encoding.params[param] not in allowed:
            values = (
                f"{allowed.start} to {allowed.stop - 1}"
                if isinstance(allowed, range)
                else f"one of {list(allowed)}"
            )
            raise broken(name, param, values, encoding.params[param])


def decode(
    name: str, encodings: Mapping[str, Encoding], tensors: Mapping[str, Any], xp: Any = np
) -> Any:
    """Decode a tensor from its stored parts.

    Args:
        name: of an encoding, or of a stored tensor, which comes back as it is.
        encodings: by name.
        tensors: stored tensors by name; arrays of ``xp``, or being traced.
        xp: numpy; or jax.numpy, inside a compiled program.

    Returns:
        An array of ``xp``; numpy's start at a multiple of 64 bytes. Blocks of rows are decoded one
        after another, so that besides the result, and what zstd or zlib hold, little is taken.

    Raises:
        CorruptError: the encoding does not fit what is stored (see ``check_encodings``), or, with
            numpy, the data does not: a code beyond its codebook, a mask whose bits are not as many
            as its values, a stream that is cut.
        ConfigError: zstd or zlib inside a compiled program.
        DependencyError: zstd without its package.
    """
    if name not in encodings:
        return tensors[name]
    reached = {part: spec_of(tensors[part]) for part in _reach(name, encodings, tensors)}
    _prove(name, encodings, reached, set(), ())
    return _part(name, encodings, tensors, xp).whole()


def decode_blocks(
    name: str, encodings: Mapping[str, Encoding], tensors: Mapping[str, Array]
) -> Iterator[tuple[slice, Array]]:
    """Decode with numpy block by block: yields the rows' slice, and the rows.

    For who looks at a large tensor once and does not want to hold it. Raises as ``decode``.
    """
    if name not in encodings:
        yield slice(None), tensors[name]
        return
    check_encodings(encodings, {part: spec_of(array) for part, array in tensors.items()})
    part = _part(name, encodings, tensors, np)
    assert isinstance(part, _Made)
    for cut in part.cuts(4 * math.prod(part.spec.shape)):
        yield slice(None) if cut is None else cut, part.rows(cut)


def _reach(
    name: str, encodings: Mapping[str, Encoding], tensors: Mapping[str, Any]
) -> Iterator[str]:
    """Collect the stored tensors that a tensor is made from, as far as they exist."""
    seen: set[str] = set()
    ahead = [name]
    while ahead:
        part = ahead.pop()
        if part in encodings and part not in seen:
            ahead += encodings[part].parts.values()
        elif part in tensors and part not in seen:
            yield part
        seen.add(part)


def _part(
    name: str, encodings: Mapping[str, Encoding], tensors: Mapping[str, Any], xp: Any
) -> EncodedPart:
    encoding = encodings.get(name)
    if encoding is None:
        return _Plain(tensors[name])
    scheme = SCHEMES[encoding.scheme]
    if scheme.host_only and xp is not np:
        raise ConfigError(
            f"tensor {name!r}: {encoding.scheme} is decoded on the host alone, not in a compiled "
            "program: decode it before, with numpy"
        )
    work = Work(
        name=name,
        spec=encoding.spec,
        params=encoding.params,
        parts={role: _part(part, encodings, tensors, xp) for role, part in encoding.parts.items()},
        xp=xp,
        memo={},
    )
    return _Made(work, scheme)


class _Plain:
    """A stored tensor."""

    def __init__(self, array: Any) -> None:
        self.spec = spec_of(array)
        self._array = array

    def whole(self) -> Any:
        return self._array

    def rows(self, cut: slice | None) -> Any:
        return self._array if cut is None else self._array[cut]


# Bytes of the result that are made at a time: what is on the way stays in the cache.
_BLOCK_BYTES: Final = 1024 * 1024


class _Made:
    """A decoded tensor: whole and then kept, or by rows for another's formula."""

    def __init__(self, work: Work, scheme: Scheme) -> None:
        self.spec = work.spec
        self._work = work
        self._scheme = scheme
        self._array: Any = None

    def whole(self) -> Any:
        if self._array is None:
            self._array = (
                self._in_blocks()
                if self._work.xp is np
                else self._scheme.formula(self._work, None, None)
            )
        return self._array

    def rows(self, cut: slice | None) -> Any:
        if cut is None or self._array is not None or not self._scheme.by_rows:
            return self.whole() if cut is None else self.whole()[cut]
        return self._scheme.formula(self._work, cut, None)

    def cuts(self, nbytes: int) -> list[slice | None]:
        """Return the row blocks to decode by; None for all rows at once."""
        shape = self.spec.shape
        if not (self._scheme.by_rows and nbytes > _BLOCK_BYTES and shape):
            return [None]
        rows = max(1, _BLOCK_BYTES * shape[0] // nbytes)
        return [slice(at, min(at + rows, shape[0])) for at in range(0, shape[0], rows)]

    def _in_blocks(self) -> Array:
        """Decode the tensor into its own memory, block by block."""
        dtype, shape = self.spec
        out = aligned_empty(dtype_from_name(dtype), shape)
        for cut in self.cuts(out.nbytes):
            place = out if cut is None else out[cut]
            found = self._scheme.formula(self._work, cut, place)
            if found is not place:
                place[...] = found
        return out
