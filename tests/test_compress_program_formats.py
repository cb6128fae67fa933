from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maas_sdk.compress.methods.matrix_view import MatrixView
from maas_sdk.compress.program.formats import FORMATS, Format, encode
from maas_sdk.errors import ConfigError

RNG = np.random.default_rng(0)
LAYOUTS = {
    "dense": MatrixView(shape=(48, 10), out_axes=(1,), in_axes=(0,)),
    "conv": MatrixView(shape=(3, 3, 8, 5), out_axes=(3,), in_axes=(0, 1, 2)),
    "stack": MatrixView(shape=(24, 10), out_axes=(1,), in_axes=(0,), stack=3),
    "odd": MatrixView(shape=(7, 3), out_axes=(1,), in_axes=(0,)),
    "one": MatrixView(shape=(1, 1), out_axes=(1,), in_axes=(0,)),
}
EVERY = [Format(kind=kind, bits=bits) for kind in FORMATS for bits in FORMATS[kind]]  # type: ignore[arg-type]


@pytest.mark.parametrize("form", EVERY, ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_format_decodes_to_something_near(name: str, form: Format) -> None:
    """Whatever the kind, bits and layout: shape and size are right, and finer is nearer."""
    layout = LAYOUTS[name]
    shape = layout.shape if layout.stack is None else (layout.stack, *layout.shape)
    weight = RNG.normal(size=shape).astype(np.float32)
    for granularity in ("tensor", "channel", 8):
        given = Format(kind=form.kind, bits=form.bits, granularity=granularity)  # type: ignore[arg-type]
        stored, found, cuts = encode("w", weight, layout, given)
        layers = [stored]
        if found.stack is not None:
            layers = [
                type(stored)(
                    name="w",
                    encodings=stored.encodings,
                    tensors={part: array[index] for part, array in stored.tensors.items()},
                )
                for index in range(found.stack)
            ]
        assert cuts == (layout.stack is None or form.kind not in ("sparse", "hashed"))
        decoded = np.stack([layer.decode() for layer in layers]).reshape(shape)
        assert decoded.dtype == np.float32
        error = np.linalg.norm(decoded - weight) / np.linalg.norm(weight)
        # Half a step of a normal distribution, roughly, and never more than the weight itself.
        wide = form.kind in ("hashed", "levels", "fixed") or form.bits < 4
        assert error < (1.01 if wide else 0.2 if form.bits < 6 else 0.05), (granularity, error)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "int"}, "Format.kind: unknown 'int'; known are integer, fixed"),
        ({"bits": 3}, "Format.bits: integer has 2, 4, 8 bits, got 3"),
        ({"kind": "nf4", "bits": 8}, "Format.bits: nf4 has 4 bits, got 8"),
        ({"granularity": 0}, "Format.granularity: expected 'tensor', 'channel' or a number"),
        ({"granularity": "row"}, "Format.granularity: .*got 'row'"),
        ({"kind": "sparse", "bits": 4, "sparsity": 1.0}, "Format.sparsity: expected 0 ≤ share < 1"),
    ],
)
def test_formats_that_there_are_not(given: dict[str, Any], message: str) -> None:
    """Refused when written down."""
    with pytest.raises(ConfigError, match=message):
        Format(**given)
