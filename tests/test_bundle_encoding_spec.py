"""Encoded tensors: every scheme to the bit, in numpy and in jax, and every fault by name."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from maas_sdk.bundle.encoding.encode import (
    compose,
    compress_tensor,
    hash_of,
    pack_bitmap,
    pack_codes,
)
from maas_sdk.bundle.encoding.registry import SCHEMES
from maas_sdk.bundle.encoding.spec import Encoding, Stored, check_encodings, decode, spec_of
from maas_sdk.errors import ConfigError, CorruptError, InputError

RNG = np.random.default_rng(0)
# Rows that no block of rows divides, and more than one block of them.
SHAPE = (523, 768)
F32 = {"dtype": "float32", "shape": SHAPE}


def whole(low: int, high: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return RNG.integers(low, high, shape)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def spread(side: np.ndarray, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A number per group, repeated for each of the group's neighbours."""
    for axis, size in enumerate(shape):
        side = np.repeat(side, size // side.shape[axis], axis)
    return side


INT8, UINT4, UINT2 = whole(-128, 128).astype(np.int8), whole(0, 16), whole(0, 4)
ROWS, GROUPS, CORNERS = normal(523, 1), normal(523, 12), normal(1, 12)
ZEROS = whole(0, 16, (523, 12)).astype(np.uint8)
BOOK, BOOKS, LAST_BOOKS = normal(16), normal(523, 1, 16), normal(1, 768, 16)
BETAS = normal(523, 1, 3)
SPARSE = np.where(RNG.random(SHAPE) < 0.3, normal(*SHAPE), np.float32(0))
FLOAT8 = normal(*SHAPE).astype(ml_dtypes.float8_e4m3fn)
BUCKETS = normal(1000)
OF, SIGN = hash_of(523 * 768, 1000, 7)
SIGNS = whole(0, 8)


def scaled(codes: Any, scale: np.ndarray, **parts: Any) -> Stored:
    return compose("w", "scaled", {"codes": codes, "scale": scale, **parts}, **F32)


def codes(values: np.ndarray, bits: int, **options: Any) -> Stored:
    return pack_codes("w/codes", values, bits=bits, **options)


# What is stored, and what it must decode to.
CASES: dict[str, tuple[Stored, np.ndarray]] = {
    "scaled, a scale per row": (scaled(INT8, ROWS), INT8 * ROWS),
    "scaled, one scale": (scaled(INT8, normal(1, 1)), INT8.astype(np.float32)),
    "scaled, groups": (scaled(INT8, GROUPS), INT8 * spread(GROUPS)),
    "scaled, groups shared by rows": (scaled(INT8, CORNERS), INT8 * spread(CORNERS)),
    "scaled, float8": (scaled(FLOAT8, ROWS), FLOAT8.astype(np.float32) * ROWS),
    "scaled, int4 of ml_dtypes": (
        scaled((INT8 // 16).astype(ml_dtypes.int4), ROWS),
        (INT8 // 16).astype(np.float32) * ROWS,
    ),
    "scaled, levels of a codebook": (
        scaled(
            compose(
                "w/codes",
                "codebook",
                {"codes": pack_codes("w/index", UINT4, bits=4), "codebook": BOOK},
                **F32,
            ),
            GROUPS,
        ),
        BOOK[UINT4] * spread(GROUPS),
    ),
    "scaled, bfloat16 scale": (
        scaled(INT8, ROWS.astype(ml_dtypes.bfloat16)),
        INT8 * ROWS.astype(ml_dtypes.bfloat16).astype(np.float32),
    ),
    "scaled, zero": (
        scaled(codes(UINT4, 4), GROUPS, zero=ZEROS),
        (UINT4 - spread(ZEROS.astype(np.float32))).astype(np.float32) * spread(GROUPS),
    ),
    "scaled, scales that are scaled": (
        scaled(
            INT8,
            compose(
                "w/scale",
                "scaled",
                {"codes": ZEROS, "scale": ROWS},
                dtype="float32",
                shape=ZEROS.shape,
            ),
        ),
        INT8 * spread(ZEROS * ROWS),
    ),
    **{
        f"packed, {bits} bits, axis {axis}, {'signed' if signed else 'unsigned'}": (
            pack_codes("w", found, bits=bits, axis=axis, signed=signed),
            found.astype(np.int8 if signed else np.uint8),
        )
        for bits, axis, signed in product((1, 2, 4), (0, 1), (False, True))
        for found in [whole(-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else whole(0, 2**bits)]
    },
    **{
        f"joined, {bits} bits, axis {axis}": (
            pack_codes("w", found, bits=bits, axis=axis),
            found.astype(np.uint8),
        )
        for bits, axis in product((3, 5, 6, 7), (0, 1))
        for found in [whole(0, 2**bits)]
    },
    "codebook": (
        compose("w", "codebook", {"codes": codes(UINT4, 4), "codebook": BOOK}, **F32),
        BOOK[UINT4],
    ),
    "codebook per row": (
        compose("w", "codebook", {"codes": codes(UINT4, 4), "codebook": BOOKS}, **F32),
        np.take_along_axis(BOOKS[:, 0], UINT4, 1),
    ),
    "codebook per column": (
        compose("w", "codebook", {"codes": codes(UINT4, 4), "codebook": LAST_BOOKS}, **F32),
        np.take_along_axis(LAST_BOOKS[0].T, UINT4, 0),
    ),
    "codebook of codes": (
        scaled(
            compose(
                "w/codes",
                "codebook",
                {"codes": pack_codes("w/index", UINT2, bits=2), "codebook": INT8[0, :4]},
                dtype="int8",
                shape=SHAPE,
            ),
            ROWS,
        ),
        INT8[0, :4][UINT2] * ROWS,
    ),
    "signs": (
        compose("w", "signs", {"codes": codes(SIGNS, 3), "betas": BETAS}, **F32),
        sum(
            (
                BETAS[..., order] * (2 * (SIGNS >> order & 1) - 1).astype(np.float32)
                for order in range(3)
            ),
            start=np.zeros(SHAPE, np.float32),
        ),
    ),
    "bitmap": (pack_bitmap("w", SPARSE), SPARSE),
    "bitmap of codes": (
        scaled(pack_bitmap("w/codes", np.where(SPARSE != 0, INT8, np.int8(0))), ROWS),
        np.where(SPARSE != 0, INT8, 0).astype(np.float32) * ROWS,
    ),
    "hashed": (
        compose("w", "hashed", {"buckets": BUCKETS}, params={"seed": 7}, **F32),
        (SIGN * BUCKETS[OF]).reshape(SHAPE),
    ),
    **{
        f"{codec} of {dtype}": (
            compress_tensor("w", values, codec=codec),
            values,
        )
        for codec in ("zstd", "zlib")
        for dtype in ("float32", "bfloat16", "int4", "bool")
        for values in [(INT8 // 32).astype(jnp.dtype(dtype))]
    },
    "scaled codes in zstd": (scaled(compress_tensor("w/codes", INT8), ROWS), INT8 * ROWS),
}
HOST_ONLY = {name for name in CASES if "zstd" in name or "zlib" in name}
# One element, none, and rows shorter than a byte of the mask.
SMALL: dict[str, Stored] = {
    "scaled scalar": compose(
        "w", "scaled", {"codes": np.int8(3)[()].reshape(()), "scale": np.array(2, np.float32)},
        dtype="float32", shape=(),
    ),
    "codebook scalar": compose(
        "w", "codebook", {"codes": np.array(1, np.uint8), "codebook": BOOK},
        dtype="float32", shape=(),
    ),
    "packed, fewer than a byte": pack_codes("w", whole(0, 2, (1, 3)), bits=1),
    "packed, none": pack_codes("w", whole(0, 2, (2, 0)), bits=1),
    "packed, no rows": pack_codes("w", whole(0, 2, (0, 2)), bits=4, axis=0),
    "joined, none": pack_codes("w", whole(0, 2, (0,)), bits=3),
    "bitmap, none": pack_bitmap("w", normal(0, 3)),
    "bitmap, all zero": pack_bitmap("w", np.zeros((3, 5), np.float32)),
    "bitmap of a scalar": pack_bitmap("w", np.array(2, np.int32)),
    "hashed, none": compose(
        "w", "hashed", {"buckets": normal(0)}, dtype="float32", shape=(0, 2), params={"seed": 0}
    ),
    "codebook, none": compose(
        "w", "codebook", {"codes": np.zeros((0, 2), np.uint8), "codebook": normal(0)},
        dtype="float32", shape=(0, 2),
    ),
}  # fmt: skip


def bits_of(array: Any) -> tuple[str, tuple[int, ...], bytes]:
    found = np.asarray(array)
    return found.dtype.name, found.shape, found.tobytes()


@pytest.mark.parametrize("name", CASES)
def test_every_scheme_decodes_to_what_was_meant(name: str) -> None:
    """The formula written out by hand gives the same bits, over several blocks of rows."""
    stored, expected = CASES[name]
    if name == "scaled, one scale":
        expected = expected * stored.tensors["w/scale"]
    found = stored.decode()
    assert bits_of(found) == bits_of(expected)
    assert found.ctypes.data % 64 == 0
    assert stored.spec == spec_of(found)


@pytest.mark.parametrize("name", sorted({*CASES, *SMALL} - HOST_ONLY))
def test_numpy_and_jax_decode_to_the_same_bits(name: str) -> None:
    """Eagerly and compiled, the one formula gives what the runtime decodes with numpy."""
    stored = SMALL[name] if name in SMALL else CASES[name][0]
    expected = bits_of(stored.decode())

    def traced(tensors: dict[str, Any]) -> Any:
        return decode("w", stored.encodings, tensors, jnp)

    given = {key: jnp.asarray(tensor) for key, tensor in stored.tensors.items()}
    assert bits_of(traced(given)) == expected
    assert bits_of(jax.jit(traced)(given)) == expected


def test_all_schemes_are_among_the_cases() -> None:
    """None is forgotten."""
    used = {e.scheme for stored, _ in CASES.values() for e in stored.encodings.values()}
    assert used == SCHEMES.keys()


def test_stored_bytes_are_those_of_the_file() -> None:
    """4-bit codes and float32 scales of groups of 64: 4.5 bits per element."""
    stored = scaled(codes(UINT4, 4), GROUPS)
    assert stored.nbytes == 523 * 768 // 2 + 523 * 12 * 4
    assert stored.nbytes * 8 / UINT4.size == 4.5


def test_decoding_takes_little_besides_the_result() -> None:
    """4-bit codes of 32 MB of float32: their unpacked bytes are never all there at once."""
    values = whole(0, 16, (4096, 2048)).astype(np.uint8)
    for scheme, parts in (
        ("scaled", {"scale": normal(4096, 32)}),
        ("codebook", {"codebook": BOOK}),
    ):
        packed = pack_codes("w/codes", values, bits=4)
        stored = compose(
            "w",
            scheme,
            {"codes": packed, **parts},
            dtype="float32",
            shape=values.shape,
        )
        tracemalloc.start()
        found = stored.decode()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < found.nbytes + 5 * 2**20


def test_the_hash_is_that_of_murmur3() -> None:
    """Bucket and sign of the first elements, computed with Python's own whole numbers."""

    def fmix32(h: int) -> int:
        h ^= h >> 16
        h = h * 0x85EBCA6B & 0xFFFFFFFF
        h ^= h >> 13
        h = h * 0xC2B2AE35 & 0xFFFFFFFF
        return h ^ h >> 16

    assert fmix32(1) == 0x514E28B7  # as in the reference implementation
    of, sign = hash_of(100, 37, 0xFFFFFFFF)
    mixed = [fmix32(i ^ 0xFFFFFFFF) for i in range(100)]
    assert of.tolist() == [(h & 0x7FFFFFFF) % 37 for h in mixed]
    assert sign.tolist() == [-1 if h >> 31 else 1 for h in mixed]


def changed(stored: Stored, **changes: Any) -> Stored:
    """The outermost encoding with other fields."""
    made = replace(stored.encodings[stored.name], **changes)
    return replace(stored, encodings={**stored.encodings, stored.name: made})


def with_tensor(stored: Stored, **tensors: np.ndarray) -> Stored:
    return replace(
        stored, tensors={**stored.tensors, **{f"w/{role}": t for role, t in tensors.items()}}
    )


PLAIN = scaled(INT8, ROWS)
PACKED = pack_codes("w", UINT4, bits=4)
JOINED = pack_codes("w", SIGNS, bits=3)
COOKED = compose("w", "codebook", {"codes": UINT4.astype(np.uint8), "codebook": BOOK}, **F32)
SIGNED, BITMAP, HASHED = CASES["signs"][0], CASES["bitmap"][0], CASES["hashed"][0]
ZLIB = compress_tensor("w", INT8, codec="zlib")
ZSTD = compress_tensor("w", INT8, codec="zstd")
# What is wrong, and what the message says of it. All begin: tensor 'w':
REFUSED: dict[str, tuple[Stored, str]] = {
    "scheme": (changed(PLAIN, scheme="magic"), "scheme: expected one of bitmap,.* found magic"),
    "no scale": (
        changed(PLAIN, parts={"codes": "w/codes"}),
        r"parts of scaled: expected \['codes', 'scale'\], and may have \['zero'\], found \['codes'",
    ),
    "unknown role": (
        changed(COOKED, parts={**COOKED.encodings["w"].parts, "zero": "w/codes"}),
        r"parts of codebook: expected \['codebook', 'codes'\], found",
    ),
    "unknown part": (
        changed(PLAIN, parts={"codes": "ghost", "scale": "w/scale"}),
        "codes: expected a stored tensor or another encoding, found none named 'ghost'",
    ),
    "circle": (
        changed(PLAIN, parts={"codes": "w", "scale": "w/scale"}),
        "parts: expected no tensor made from itself, found w ← w",
    ),
    "params": (changed(PLAIN, params={"bits": 4}), r"params of scaled: expected \[\], found"),
    "bits": (
        changed(PACKED, params={"bits": 3, "axis": 1, "signed": 0}),
        r"bits: expected one of \[1, 2, 4\], found 3",
    ),
    "axis": (
        changed(PACKED, params={"bits": 4, "axis": 2, "signed": 0}),
        r"axis: expected below 2, found 2",
    ),
    "axis below": (
        changed(PACKED, params={"bits": 4, "axis": -1, "signed": 0}),
        "axis: expected 0 to 63, found -1",
    ),
    "signed": (
        changed(PACKED, params={"bits": 4, "axis": 1, "signed": 1}),
        "decoded: expected int8, found uint8",
    ),
    "packed shape": (
        changed(PACKED, shape=(523, 770)),
        r"data: expected uint8\[523, 385\], found uint8\[523, 384\]",
    ),
    "scaled dtype": (
        changed(PLAIN, dtype="bfloat16"),
        r"decoded: expected float32\[523, 768\], found bfloat16",
    ),
    "scaled shape": (changed(PLAIN, shape=(1,)), r"decoded: expected float32\[523, 768\]"),
    "codes of floats": (
        with_tensor(PLAIN, codes=SPARSE.astype(np.float16)),
        "codes: expected whole numbers .*float8 or float32, found float16",
    ),
    "scale of whole numbers": (with_tensor(PLAIN, scale=ZEROS), "scale: expected one of float32"),
    "scale that does not divide": (
        with_tensor(PLAIN, scale=normal(523, 7)),
        r"scale: expected sizes that divide those of codes, \[523, 768\], found float32\[523, 7\]",
    ),
    "scale of another rank": (with_tensor(PLAIN, scale=normal(523)), "scale: expected sizes that"),
    "zero of booleans": (
        scaled(INT8, ROWS, zero=np.zeros((1, 1), bool)),
        "zero: expected whole numbers of ≤ 32 bits or floats, found bool",
    ),
    "joined shape": (
        changed(JOINED, shape=(768, 523)),
        r"low: expected uint8\[768, 523\], found uint8\[523, 768\]",
    ),
    "low bits": (changed(JOINED, params={"low_bits": 8}), "low_bits: expected 1 to 7, found 8"),
    "codebook too small": (
        with_tensor(COOKED, codebook=BOOK[:15]),
        "codes: expected each below the codebook's 15 entries, found 15",
    ),
    "codebook of another dtype": (
        with_tensor(COOKED, codebook=BOOK.astype(np.float16)),
        "decoded: expected float16",
    ),
    "codebook of another shape": (
        with_tensor(COOKED, codebook=BOOKS[:2]),
        r"codebook: expected \[K\], or \[\.\.\., K\] with sizes 1 or those of uint8",
    ),
    "codebook without entries": (with_tensor(COOKED, codebook=BOOK[:0]), "expected K ≥ 1 entries"),
    "codebook of rank 0": (
        with_tensor(COOKED, codebook=np.float32(1).reshape(())),
        r"codebook: expected \[K\]",
    ),
    "signs of nine orders": (
        with_tensor(SIGNED, betas=normal(523, 1, 9)),
        "betas: expected 1 to 8 orders M",
    ),
    "betas of another shape": (
        with_tensor(SIGNED, betas=normal(523, 3)),
        r"betas: expected \[\.\.\., M\] with sizes 1",
    ),
    "mask too short": (
        with_tensor(BITMAP, mask=BITMAP.tensors["w/mask"][:-1]),
        r"mask: expected uint8\[50208\], found uint8\[50207\]",
    ),
    "values missing": (
        with_tensor(BITMAP, values=BITMAP.tensors["w/values"][:-1]),
        r"values: expected (\d+), as many as the mask has bits, found \d+",
    ),
    "values of another dtype": (
        with_tensor(BITMAP, values=BITMAP.tensors["w/values"].astype(np.float64)),
        "values: expected float32",
    ),
    "seed": (changed(HASHED, params={"seed": 2**32}), "seed: expected 0 to 4294967295"),
    "no buckets": (with_tensor(HASHED, buckets=normal(0)), "buckets: expected 1 ≤ K"),
    "hashed beyond 32 bits": (changed(HASHED, shape=(2**32, 2)), "at most 4294967296 elements"),
    "beyond any memory": (
        changed(HASHED, shape=(2**62, 0)),
        r"less than 2\^63 bytes, found float32\[4611686018427387904, 0\]",
    ),
    "zlib, another dtype": (
        changed(ZLIB, dtype="int16"),
        f"zlib: expected a stream of {2 * INT8.size} bytes, found one of {INT8.size} bytes",
    ),
    "zlib, longer": (changed(ZLIB, shape=(523, 767)), "found a longer one"),
    "zstd, longer": (changed(ZSTD, shape=(523, 767)), "found a longer one"),
    "zstd, shorter": (changed(ZSTD, shape=(523, 769)), f"found one of {INT8.size} bytes"),
    "zlib, no stream": (with_tensor(ZLIB, data=np.full(999, 7, np.uint8)), "incorrect header"),
    "zstd, no stream": (with_tensor(ZSTD, data=np.full(999, 7, np.uint8)), "tensor 'w': zstd: "),
    "zstd of rank 2": (
        with_tensor(ZSTD, data=ZSTD.tensors["w/data"][None]),
        r"data: expected uint8\[n\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_by_name(name: str) -> None:
    """The message says which tensor, which part of it, what was expected and what was found."""
    stored, message = REFUSED[name]
    with pytest.raises(CorruptError, match=message) as caught:
        stored.decode()
    assert caught.value.message.startswith("tensor 'w': ")
    assert caught.value.message.endswith("; compress and export the model again")
    assert caught.value.evidence == {"tensor": "w"}


def test_encodings_are_checked_without_their_data() -> None:
    """What can be known from dtypes and shapes is; a name for two things, and depth, too."""
    specs = {name: spec_of(tensor) for name, tensor in PLAIN.tensors.items()}
    check_encodings(PLAIN.encodings, specs)
    with pytest.raises(CorruptError, match="tensor 'w': its name: expected one of no stored"):
        check_encodings(PLAIN.encodings, {**specs, "w": spec_of(INT8)})
    bad = changed(PLAIN, dtype="int8")
    with pytest.raises(CorruptError, match="tensor 'w': decoded: expected float32"):
        check_encodings(bad.encodings, specs)
    made = Encoding(scheme="zlib", dtype="uint8", shape=(9,), parts={"data": "t"})
    for depth, fine in ((16, True), (17, False)):
        chain = {
            f"e{level}": replace(made, parts={"data": f"e{level + 1}"}) for level in range(depth)
        }
        chain[f"e{depth - 1}"] = made
        if fine:
            check_encodings(chain, {"t": spec_of(np.zeros(9, np.uint8))})
        else:
            with pytest.raises(CorruptError, match="tensor 'e16': parts: expected at most 16"):
                check_encodings(chain, {"t": spec_of(np.zeros(9, np.uint8))})


def test_an_encoding_has_a_dtype_and_sizes() -> None:
    """Names and sizes that nothing can have are refused when the encoding is made."""
    with pytest.raises(InputError, match="unknown dtype 'float31'"):
        replace(PLAIN.encodings["w"], dtype="float31")
    with pytest.raises(InputError, match=r"\[-1, 3\].*a size ≥ 0"):
        replace(PLAIN.encodings["w"], shape=(-1, 3))


@pytest.mark.parametrize("codec", ["zstd", "zlib"])
def test_a_stream_that_is_cut_or_goes_on_anywhere(codec: str) -> None:
    """Every shorter stream, and one with a byte too many, is refused."""
    stored = compress_tensor("w", whole(0, 99, (40,)).astype(np.uint8), codec=codec)
    data = stored.tensors["w/data"]
    for length in range(data.size):
        with pytest.raises(CorruptError, match=f"tensor 'w': {codec}: "):
            with_tensor(stored, data=data[:length]).decode()
    for more in (b"\0", data.tobytes()):
        longer = np.frombuffer(data.tobytes() + more, np.uint8)
        with pytest.raises(CorruptError, match=f"tensor 'w': {codec}: "):
            with_tensor(stored, data=longer).decode()


@pytest.mark.parametrize("codec", ["zstd", "zlib"])
def test_a_stream_never_takes_more_memory_than_its_tensor(codec: str) -> None:
    """A stream of 256 MB of zeros that says it is 1000 bytes is stopped at once."""
    squeezers: dict[str, Callable[[bytes], bytes]] = {
        "zstd": zstandard.ZstdCompressor(write_content_size=False).compress,
        "zlib": zlib.compress,
    }
    squeeze = squeezers[codec]
    bomb = np.frombuffer(squeeze(bytes(2**28)), np.uint8)
    made = Encoding(scheme=codec, dtype="uint8", shape=(1000,), parts={"data": "t"})
    tracemalloc.start()
    with pytest.raises(CorruptError, match="found a longer one"):
        decode("w", {"w": made}, {"t": bomb})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_a_claim_beyond_what_the_stream_can_hold() -> None:
    """A terabyte out of a hundred bytes is refused before memory is taken for it."""
    for codec in ("zstd", "zlib"):
        stored = compress_tensor("w", np.zeros(10_000, np.uint8), codec=codec)
        with pytest.raises(CorruptError, match=r"data: expected at least \d{8,} bytes"):
            changed(stored, shape=(2**40,)).decode()


def test_zstd_is_for_the_host_alone() -> None:
    """No compiled program inflates anything."""
    with pytest.raises(ConfigError, match="tensor 'w': zstd is decoded on the host alone"):
        decode("w", ZSTD.encodings, ZSTD.tensors, jnp)


def test_without_zstandard_everything_else_works() -> None:
    """The package is asked for when a tensor needs it, with the line that installs it."""
    code = """
import sys
sys.modules["zstandard"] = None
import numpy as np
from maas_sdk.bundle.encoding.encode import compress_tensor
x = np.arange(9)
assert (compress_tensor("w", x, codec="zlib").decode() == x).all()
try:
    compress_tensor("w", x)
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("DependencyError tensors are compressed with zstd")
    assert "pip install 'maas-sdk[zstd]'" in done.stdout


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pack_codes("w", INT8, bits=9), "expected 1 to 8 bits, got 9"),
        (lambda: pack_codes("w", INT8, bits=3, signed=True), r"got 3: add 2\^\(bits-1\)"),
        (lambda: pack_codes("w", UINT4, bits=2), "codes of 2 bits, 0 to 3, got 0 to 15"),
        (lambda: pack_codes("w", UINT4, bits=4, axis=2), r"\[523, 768\] have no axis 2"),
        (lambda: compress_tensor("w", INT8, codec="rar"), "expected a codec of .*'rar'"),
        (lambda: hash_of(9, 0, 1), "expected count ≤ 2"),
        (
            lambda: scaled(codes(UINT4, 4), Stored(name="s", encodings={}, tensors={
                "s": GROUPS, "w/codes/data": GROUPS})),
            "two different parts are named 'w/codes/data'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_packed_is_refused(make: Callable[[], Stored], message: str) -> None:
    """Before it is written: codes that their bits do not hold, parts of one name."""
    with pytest.raises(ConfigError, match=message):
        make()


def test_eight_bits_are_stored_as_they_are() -> None:
    """A tensor that needs no encoding is one that has none."""
    stored = pack_codes("w", INT8, bits=8, signed=True)
    assert (stored.encodings, stored.spec) == ({}, spec_of(INT8))
    assert stored.decode() is stored.tensors["w"]


NAMES = st.sampled_from(["w", "a", "b", "t", "u", "v"])
ROLES = st.sampled_from(
    [*("codes", "scale", "zero", "data", "low", "high"), *("codebook", "betas", "mask", "values")]
)
SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)
DTYPES = st.sampled_from(["uint8", "int8", "float32", "float32", "bfloat16", "int4", "bool"])
SMALL_CASES = [
    *SMALL.values(),
    pack_codes("w", whole(0, 16, (3, 5)), bits=4),
    pack_codes("w", whole(0, 128, (3, 5)), bits=7, axis=0),
    pack_bitmap("w", np.where(RNG.random((4, 5)) < 0.5, normal(4, 5), 0)),
    compose("w", "codebook", {"codes": pack_codes("w/codes", whole(0, 4, (2, 9)), bits=2),
                              "codebook": normal(2, 1, 4)}, dtype="float32", shape=(2, 9)),
    compose("w", "scaled", {"codes": pack_codes("w/codes", whole(-8, 8, (2, 8)), bits=4,
                                                signed=True), "scale": normal(2, 4),
                            "zero": normal(1, 1)}, dtype="float32", shape=(2, 8)),
    compose("w", "signs", {"codes": whole(0, 4, (2, 9)).astype(np.uint8), "betas": normal(1, 9, 2)},
            dtype="float32", shape=(2, 9)),
    compress_tensor("w", whole(-9, 9, (4, 5)), codec="zstd"),
    compress_tensor("w", whole(-9, 9, (4, 5)), codec="zlib"),
]  # fmt: skip


@st.composite
def tensors(draw: st.DrawFn) -> np.ndarray:
    shape = draw(SHAPES)
    data = draw(st.binary(min_size=8, max_size=32))
    raw = np.resize(np.frombuffer(data, np.uint8), shape)
    dtype = jnp.dtype(draw(DTYPES))
    with np.errstate(all="ignore"):
        return np.asarray(raw.view(np.int8) if raw.ndim else raw).astype(dtype)


@st.composite
def broken_ones(draw: st.DrawFn) -> Stored:
    """A small encoded tensor with something replaced, or one that is all chance."""
    stored = draw(st.sampled_from(SMALL_CASES))
    encodings, found = dict(stored.encodings), dict(stored.tensors)
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(encodings)))
        change = draw(
            st.sampled_from(["scheme", "dtype", "shape", "parts", "params", "tensor", "bytes"])
        )
        made = encodings[name]
        params = st.sampled_from(["bits", "axis", "signed", "low_bits", "seed"])
        if change == "scheme":
            encodings[name] = replace(made, scheme=draw(st.sampled_from([*SCHEMES, "magic"])))
        elif change == "dtype":
            encodings[name] = replace(made, dtype=draw(DTYPES))
        elif change == "shape":
            encodings[name] = replace(made, shape=draw(SHAPES))
        elif change == "parts":
            places = st.sampled_from([*encodings, *found, "ghost"])
            parts = {**made.parts, **draw(st.dictionaries(ROLES, places, max_size=2))}
            if parts and draw(st.booleans()):
                del parts[draw(st.sampled_from(sorted(parts)))]
            encodings[name] = replace(made, parts=parts)
        elif change == "params":
            some = draw(st.dictionaries(params, st.integers(-1, 9), max_size=2))
            encodings[name] = replace(made, params={**made.params, **some})
        elif change == "tensor":
            found[draw(st.sampled_from(sorted(found)))] = draw(tensors())
        else:
            key = draw(st.sampled_from(sorted(found)))
            data = bytearray(found[key].tobytes())
            for at in draw(st.lists(st.integers(0, len(data) - 1), max_size=2)) if data else []:
                data[at] ^= 1 << draw(st.integers(0, 7))
            found[key] = np.frombuffer(bytes(data), found[key].dtype).reshape(found[key].shape)
    return Stored(name="w", encodings=encodings, tensors=found)


@settings(max_examples=1000, deadline=None)
@given(broken_ones())
def test_any_encoding_decodes_as_it_says_or_is_refused(stored: Stored) -> None:
    """Dtype and shape are those that were promised, or there is a CorruptError; nothing else."""
    try:
        with np.errstate(all="ignore"):
            found = stored.decode()
    except CorruptError:
        return
    assert spec_of(found) == stored.spec


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        NAMES,
        st.builds(
            Encoding,
            scheme=st.sampled_from(list(SCHEMES)),
            dtype=DTYPES,
            shape=SHAPES,
            parts=st.dictionaries(
                st.sampled_from(["codes", "scale", "data", "low", "high", "codebook"]), NAMES
            ),
            params=st.just({}),
        ),
    ),
    st.dictionaries(NAMES, tensors()),
)
def test_encodings_of_chance_never_end_otherwise(
    encodings: dict[str, Encoding], found: dict[str, np.ndarray]
) -> None:
    """Circles, missing parts and names for two things end in a CorruptError as well."""
    try:
        check_encodings(encodings, {name: spec_of(tensor) for name, tensor in found.items()})
        with np.errstate(all="ignore"):
            for name in encodings:
                decode(name, encodings, found)
    except CorruptError:
        pass
