"""Encoded tensors: their specification, the registry of schemes, encoding and decoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maas_sdk.faces import lazy_names

if TYPE_CHECKING:
    from maas_sdk.bundle.encoding.encode import compose, pack_codes

__all__ = [
    "compose",
    "pack_codes",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(
        __name__,
        {
            "compose": "encode",
            "pack_codes": "encode",
        },
    )
