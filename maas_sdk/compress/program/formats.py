"""Formats of a quantized weight: the one place that maps algorithms to the bundle's schemes.

The rule it keeps: a format is a value that determines the stored bytes, and refuses impossible
settings before any weight is read.

    integer   whole numbers of 8, 4 or 2 bits times a scale            grids.symmetric
    fixed     the same with scales that are powers of two, Qm.n         grids.fixed_point
    float8    float8_e4m3fn times a scale                               grids.float8
    nf4       16 levels of a normal distribution times a scale          nf4.py
    kmeans    indices of 2 to 8 bits into a codebook                    cluster.kmeans
    sparse    a bit per weight, and a codebook for those not zero       cluster.sparse
    levels    first (two) or second order (four levels)                 levels.py
    hashed    weights that share buckets by a hash of their place       hashing.py

Dimension letters: O output channels, I inputs, S layers of a stack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from maas_sdk.bundle.encoding.encode import compose, pack_bitmap, pack_codes
from maas_sdk.bundle.encoding.spec import Stored
from maas_sdk.compress.methods import cluster, grids, hashing, levels, nf4
from maas_sdk.compress.methods.matrix_view import MatrixView
from maas_sdk.errors import ConfigError
from maas_sdk.tensors import Array

__all__ = ["FORMATS", "Format", "Kind", "encode", "stack", "store_codes"]

Kind = Literal["integer", "fixed", "float8", "nf4", "kmeans", "sparse", "levels", "hashed"]

# Kind → bits that it may have.
FORMATS: Final[Mapping[str, tuple[int, ...]]] = {
    "integer": (2, 4, 8),
    "fixed": (2, 4, 8),
    "float8": (8,),
    "nf4": (4,),
    "kmeans": (2, 3, 4, 5, 6, 7, 8),
    "sparse": (2, 3, 4, 5, 6, 7, 8),
    "levels": (1, 2),
    "hashed": (1, 2, 4, 8),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """Number format of one weight."""

    kind: Kind = "integer"
    # Of a code. Of "hashed": of the share of buckets, bits / 32 as many as weights.
    bits: int = 8
    # Who shares a scale or a codebook: "tensor", "channel", or so many neighbouring inputs.
    granularity: Literal["tensor", "channel"] | int = "channel"
    # How the range of a grid is found: its largest number, or where the squared error is least.
    clip: Literal["max", "mse"] = "max"
    # Of "fixed": m of Qm.n; None finds it.
    integer_bits: int | None = None
    # Of "sparse": the share of weights that becomes zero; None keeps the zeros that are there.
    sparsity: float | None = None

    def __post_init__(self) -> None:
        known = FORMATS.get(self.kind)
        if known is None:
            raise ConfigError(
                f"Format.kind: unknown {self.kind!r}; known are {', '.join(FORMATS)}",
                kind=self.kind,
            )
        if self.bits not in known:
            raise ConfigError(
                f"Format.bits: {self.kind} has {', '.join(map(str, known))} bits, got {self.bits}; "
                "codebooks (kmeans) have 2 to 8",
                bits=self.bits,
            )
        if self.granularity not in ("tensor", "channel") and (
            not isinstance(self.granularity, int) or self.granularity < 1
        ):
            raise ConfigError(
                f"Format.granularity: expected 'tensor', 'channel' or a number of neighbours ≥ 1, "
                f"got {self.granularity!r}",
                granularity=self.granularity,
            )
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise ConfigError(f"Format.sparsity: expected 0 ≤ share < 1, got {self.sparsity}")

    def __str__(self) -> str:
        """Return a short name for tables: "int8/channel", "kmeans4/tensor", "nf4/g64"."""
        word = {"integer": "int", "levels": "order"}.get(self.kind, self.kind)
        bits = "" if self.kind in ("float8", "nf4") else str(self.bits)
        if self.kind in ("hashed", "sparse"):
            return f"{word}{bits}"
        group = f"g{self.granularity}" if isinstance(self.granularity, int) else self.granularity
        return f"{word}{bits}/{group}"

    def fitted(self, layout: MatrixView) -> Format:
        """Return the format with a group size that divides this weight's inputs."""
        if not isinstance(self.granularity, int):
            return self
        return replace(self, granularity=layout.group(self.granularity) or "channel")


def encode(
    name: str, weight: Array, layout: MatrixView, form: Format
) -> tuple[Stored, MatrixView, bool]:
    """Encode a weight in a format.

    Args:
        name: of the weight; what it is made from is called ``<name>/codes``, ``<name>/scale``, ….
        weight: float32, ``layout.shape``, or ``[S, …]`` of it for a stack.
        layout: what is summed over.
        form: the format.

    Returns:
        The weight as it is stored (of a stack, with the encodings of one layer); its layout, where
        a stack may count as more channels; and whether the stack can be cut into layers.

    Raises:
        InputError: a weight that is not finite.
    """
    if layout.stack is not None and form.kind in ("sparse", "hashed"):
        # Positions count over the whole tensor: its layers cannot be told apart.
        merged = MatrixView(
            shape=(layout.stack, *layout.shape),
            out_axes=(0, *(axis + 1 for axis in layout.out_axes)),
            in_axes=tuple(axis + 1 for axis in layout.in_axes),
        )
        return _ENCODERS[form.kind](name, weight, merged, form), merged, False
    encoder = _ENCODERS[form.kind]
    fitted = form.fitted(layout)
    if layout.stack is None:
        return encoder(name, weight, layout, fitted), layout, True
    return stack([encoder(name, layer, layout, fitted) for layer in weight]), layout, True


def stack(layers: list[Stored]) -> Stored:
    """Stack layers into one weight: tensors stacked, encodings those of a layer."""
    first = layers[0]
    return Stored(
        name=first.name,
        encodings=first.encodings,
        tensors={
            name: np.stack([layer.tensors[name] for layer in layers]) for name in first.tensors
        },
    )


def store_codes(name: str, codes: Array, scale: Array, layout: MatrixView, bits: int) -> Stored:
    """Store integer or float8 codes [O, I] with their scales, laid out as the weight is."""
    laid = layout.from_matrix(codes)
    part: Stored | Array = laid
    if bits < 8:
        part = pack_codes(
            f"{name}/codes", laid, bits=bits, axis=_pack_axis(laid.shape, bits), signed=True
        )
    return compose(
        name,
        "scaled",
        {"codes": part, "scale": layout.from_matrix(scale)},
        dtype="float32",
        shape=laid.shape,
    )


def _pack_axis(shape: tuple[int, ...], bits: int) -> int:
    """Return the axis to pack: the last, unless another wastes less at its end."""
    planes = 8 // min(bits & -bits, bits) if bits in (1, 2, 4) else 8
    waste = [-(-size // planes) * planes / max(size, 1) for size in shape]
    return min(range(len(shape)), key=lambda axis: (round(waste[axis], 2), -axis))


def _integer(name: str, weight: Array, layout: MatrixView, form: Format) -> Stored:
    matrix = layout.to_matrix(weight)
    found = grids.symmetric(matrix, bits=form.bits, granularity=form.granularity, clip=form.clip)
    return store_codes(name, found.codes, found.scale, layout, form.bits)


def _fixed(name: str, weight: Array, layout: MatrixView, form: Format) -> Stored:
    found = grids.fixed_point(
        layout.to_matrix(weight),
        bits=form.bits,
        integer_bits=form.integer_bits,
        granularity=form.granularity,
        clip=form.clip,
    )
    return store_codes(name, found.codes, found.scale, layout, form.bits)


def _float8(name: str, weight: Array, layout: MatrixView, form: Format) -> Stored:
    found = grids.float8(layout.to_matrix(weight), form.granularity)
    return store_codes(name, found.codes, found.scale, layout, 8)


def _nf4(name: str, weight: Array, layout: MatrixView, form: Format) -> Stored:
    found = nf4.nf4(layout.to_matrix(weight), granularity=form.granularity)
    laid = layout.from_matrix(found.codes)
    axis = _pack_axis(laid.shape, 4)
    normal = compose(
        f"{name}/levels",
        "codebook",
        {
            "codes": pack_codes(f"{name}/codes", laid, bits=4, axis=axis),
            "codebook": _book(found.levels, laid.ndim, layout),
        },
        dtype="float32",
        shape=laid.shape,
    )
    return compose(
        name,
        "scaled",
        {"codes": normal, "scale": layout.from_matrix(found.scale)},
        dtype="float32",
        shape=laid.shape,
    )


def _book(codebook: Array, rank: int, layout: MatrixView) -> Array:
    """Reshape a shared codebook: [K], or [1, …, 1, K] in a stack's layer."""
    return codebook if layout.stack is None else codebook.reshape(*[1] * rank, -1)


def _kmeans(name: str, weight: Array, layout: MatrixView, form: Format) -> Stored:
    granularity: Literal["tensor", "channel"] = (
        "tensor" if form.granularity == "tensor" else "channel"
    )
    found = cluster.kmeans(layout.to_matrix(weight), bits=form.bits, granularity=granularity)
    laid = layout.from_matrix(found.codes)
    axis = _pack_axis(laid.shape, form.bits)
    book = found.codebook
    return compose(
        name,
        "codebook",
        {
            "codes": pack_codes(f"{name}/codes", laid, bits=form.bits, axis=axis),
            "codebook": _book(book, laid.ndim, layout)
            if book.ndim == 1
            else layout.from_levels(book),
        },
        dtype="float32",
        shape=laid.shape,
    )


def _sparse(name: str, weight: Array, layout: MatrixView, form: Format) -> Stored:
    found = cluster.sparse(layout.to_matrix(weight), bits=form.bits, sparsity=form.sparsity)
    # The bitmap goes over the weight as it lies: codes in that order too.
    index = np.zeros(found.mask.shape, np.int16)
    index[found.mask] = found.codes.astype(np.int16) + 1
    laid = layout.from_matrix(index)
    codes = laid[laid != 0] - 1
    mask = pack_bitmap(f"{name}/unused", (laid != 0).astype(np.uint8)).tensors
    values = compose(
        f"{name}/values",
        "codebook",
        {
            "codes": pack_codes(f"{name}/codes", codes, bits=form.bits)
            if codes.size
            else codes.astype(np.uint8),
            "codebook": found.codebook,
        },
        dtype="float32",
        shape=codes.shape,
    )
    bits = next(array for part, array in mask.items() if part.endswith("mask"))
    return compose(
        name, "bitmap", {"mask": bits, "values": values}, dtype="float32", shape=laid.shape
    )


def _levels(name: str, weight: Array, layout: MatrixView, form: Format) -> Stored:
    # Levels are one channel's or all's: as codebooks are.
    granularity: Literal["tensor", "channel"] = (
        "tensor" if form.granularity == "tensor" else "channel"
    )
    found = levels.signs(layout.to_matrix(weight), order=form.bits, granularity=granularity)
    laid = layout.from_matrix(found.codes)
    return compose(
        name,
        "signs",
        {
            "codes": pack_codes(
                f"{name}/codes", laid, bits=form.bits, axis=_pack_axis(laid.shape, form.bits)
            ),
            "betas": layout.from_levels(found.betas),
        },
        dtype="float32",
        shape=laid.shape,
    )


def _hashed(name: str, weight: Array, layout: MatrixView, form: Format) -> Stored:
    count = max(1, weight.size * form.bits // 32)
    found = hashing.hashed(np.ascontiguousarray(weight).reshape(1, -1), buckets=count)
    return compose(
        name,
        "hashed",
        {"buckets": found.buckets},
        dtype="float32",
        shape=weight.shape,
        params={"seed": found.seed},
    )


_ENCODERS: Final[Mapping[str, Callable[[str, Any, MatrixView, Format], Stored]]] = {
    "integer": _integer,
    "fixed": _fixed,
    "float8": _float8,
    "nf4": _nf4,
    "kmeans": _kmeans,
    "sparse": _sparse,
    "levels": _levels,
    "hashed": _hashed,
}
