"""Registry of encoding schemes: the checks and the formula of each.

The rule: ``fits`` checks dtypes, shapes and parameters against one another before any data is
touched; the formulas (``decode.py``) rely on it.

Letters: r rank of the result, K entries of a codebook, M orders of signs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from maas_sdk.bundle.encoding import decode as formulas
from maas_sdk.bundle.encoding.decode import Work
from maas_sdk.bundle.encoding.entropy import CODECS
from maas_sdk.bundle.files.safetensors import Spec
from maas_sdk.tensors import BITS, Array, packed_nbytes

__all__ = ["SCHEMES", "Scheme"]

# (whether it holds, what of the tensor, what was expected, what was found)
_Check = tuple[bool, str, object, object]
# Gives the checks one by one; a later one may rely on those before it.
_Fits = Callable[[Spec, Mapping[str, int], Mapping[str, Spec]], Iterator[_Check]]
# (work, rows of the first axis or None, an array of numpy's that may take the result or None)
_Formula = Callable[[Work, slice | None, Array | None], Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """One way to make a tensor from others."""

    # Roles that must be there, and those that may.
    roles: frozenset[str]
    fits: _Fits
    formula: _Formula
    optional: frozenset[str] = frozenset()
    # Parameters, all of which must be there, with the values that they may have.
    params: Mapping[str, Collection[int]] = field(default_factory=dict)
    # Whether single rows can be made without the rest.
    by_rows: bool = True
    # numpy only: no compiled program can do it.
    host_only: bool = False


_SCALABLE: Final = frozenset(
    name
    for name in BITS
    # float32: levels out of a codebook, as nf4 has them.
    if ("int" in name and BITS[name] <= 32) or name.startswith("float8") or name == "float32"
)
_FLOATS: Final = ("float32", "float16", "bfloat16")


def _scaled_fits(
    made: Spec, params: Mapping[str, int], parts: Mapping[str, Spec]
) -> Iterator[_Check]:
    codes = parts["codes"]
    yield codes.dtype in _SCALABLE, "codes", "whole numbers of ≤ 32 bits, float8 or float32", codes
    yield made == ("float32", codes.shape), "decoded", Spec("float32", codes.shape), made
    yield parts["scale"].dtype in _FLOATS, "scale", f"one of {', '.join(_FLOATS)}", parts["scale"]
    if "zero" in parts:
        fine = parts["zero"].dtype in _FLOATS or parts["zero"].dtype in _SCALABLE
        yield fine, "zero", "whole numbers of ≤ 32 bits or floats", parts["zero"]
    for role in parts.keys() & {"scale", "zero"}:
        shape = parts[role].shape
        fine = len(shape) == len(codes.shape) and all(
            count == size or (count > 0 and size % count == 0)
            for count, size in zip(shape, codes.shape, strict=True)
        )
        yield fine, role, f"sizes that divide those of codes, {list(codes.shape)}", parts[role]


def _packed_fits(
    made: Spec, params: Mapping[str, int], parts: Mapping[str, Spec]
) -> Iterator[_Check]:
    data, axis = parts["data"], params["axis"]
    dtype = "int8" if params["signed"] else "uint8"
    yield made.dtype == dtype, "decoded", dtype, made
    yield axis < len(made.shape), "axis", f"below {len(made.shape)}", axis
    nbytes = -(-made.shape[axis] * params["bits"] // 8)
    shape = (*made.shape[:axis], nbytes, *made.shape[axis + 1 :])
    yield data == ("uint8", shape), "data", Spec("uint8", shape), data


def _joined_fits(
    made: Spec, params: Mapping[str, int], parts: Mapping[str, Spec]
) -> Iterator[_Check]:
    yield made.dtype == "uint8", "decoded", "uint8", made
    for role in ("low", "high"):
        yield parts[role] == made, role, made, parts[role]


def _codebook_fits(
    made: Spec, params: Mapping[str, int], parts: Mapping[str, Spec]
) -> Iterator[_Check]:
    codes, book = parts["codes"], parts["codebook"]
    yield codes.dtype == "uint8", "codes", "uint8", codes
    yield made == (book.dtype, codes.shape), "decoded", Spec(book.dtype, codes.shape), made
    fine = len(book.shape) == 1 or _one_or_equal(book.shape, codes.shape)
    yield fine, "codebook", f"[K], or [..., K] with sizes 1 or those of {codes}", book
    entries = book.shape[-1]
    yield entries > 0 or math.prod(codes.shape) == 0, "codebook", "K ≥ 1 entries", book


def _one_or_equal(side: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Return True when all sizes but the last are 1 or those of ``shape``."""
    return len(side) == len(shape) + 1 and all(
        count in (1, size) for count, size in zip(side[:-1], shape, strict=True)
    )


def _signs_fits(
    made: Spec, params: Mapping[str, int], parts: Mapping[str, Spec]
) -> Iterator[_Check]:
    codes, betas = parts["codes"], parts["betas"]
    yield codes.dtype == "uint8", "codes", "uint8", codes
    yield made == ("float32", codes.shape), "decoded", Spec("float32", codes.shape), made
    yield betas.dtype == "float32", "betas", "float32", betas
    fine = _one_or_equal(betas.shape, codes.shape)
    yield fine, "betas", f"[..., M] with sizes 1 or those of {codes}", betas
    yield 1 <= betas.shape[-1] <= 8, "betas", "1 to 8 orders M", betas


def _bitmap_fits(
    made: Spec, params: Mapping[str, int], parts: Mapping[str, Spec]
) -> Iterator[_Check]:
    mask, values, count = parts["mask"], parts["values"], math.prod(made.shape)
    yield mask == ("uint8", (-(-count // 8),)), "mask", f"uint8[{-(-count // 8)}]", mask
    yield values.dtype == made.dtype, "values", made.dtype, values
    fine = len(values.shape) == 1 and values.shape[0] <= count
    yield fine, "values", f"rank 1, at most {count} of them", values


_HASHED_MAX: Final = 2**32


def _hashed_fits(
    made: Spec, params: Mapping[str, int], parts: Mapping[str, Spec]
) -> Iterator[_Check]:
    buckets, count = parts["buckets"], math.prod(made.shape)
    yield made.dtype == "float32", "decoded", "float32", made
    yield count <= _HASHED_MAX, "decoded", f"at most {_HASHED_MAX} elements", made
    fine = buckets.dtype == "float32" and len(buckets.shape) == 1
    yield fine, "buckets", "float32[K]", buckets
    fine = buckets.shape[0] < 2**31 and (buckets.shape[0] > 0 or count == 0)
    yield fine, "buckets", "1 ≤ K < 2^31", buckets


def _entropy_fits(codec: str) -> _Fits:
    def fits(made: Spec, params: Mapping[str, int], parts: Mapping[str, Spec]) -> Iterator[_Check]:
        data = parts["data"]
        yield data.dtype == "uint8" and len(data.shape) == 1, "data", "uint8[n]", data
        # Before memory is taken for what no such stream can hold.
        least = packed_nbytes(*made) // CODECS[codec].most
        yield data.shape[0] >= least, "data", f"at least {least} bytes for {made}", data

    return fits


def _scheme(
    roles: str, fits: _Fits, formula: _Formula, optional: str = "", **params: Collection[int]
) -> Scheme:
    return Scheme(
        roles=frozenset(roles.split()),
        optional=frozenset(optional.split()),
        fits=fits,
        formula=formula,
        params=params,
    )


# What manifest.json may name. numpy holds at most 64 dimensions.
SCHEMES: Final[Mapping[str, Scheme]] = {
    "scaled": _scheme("codes scale", _scaled_fits, formulas.scaled, "zero"),
    "packed": _scheme(
        "data", _packed_fits, formulas.packed, bits=(1, 2, 4), axis=range(64), signed=range(2)
    ),
    "joined": _scheme("low high", _joined_fits, formulas.joined, low_bits=range(1, 8)),
    "codebook": _scheme("codes codebook", _codebook_fits, formulas.codebook),
    "signs": _scheme("codes betas", _signs_fits, formulas.signs),
    "bitmap": _scheme("mask values", _bitmap_fits, formulas.bitmap),
    "hashed": _scheme("buckets", _hashed_fits, formulas.hashed, seed=range(2**32)),
    **{
        codec: replace(
            _scheme("data", _entropy_fits(codec), formulas.entropy(codec)),
            by_rows=False,
            host_only=True,
        )
        for codec in CODECS
    },
}
