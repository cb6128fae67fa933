"""The bundle format: a folder that holds a compiled model and everything needed to check it.

What a reader needs is here; the rest by module: ``manifest`` (the fields), ``files`` (tensors and
how they are written), ``encoding`` (tensors made from others), ``archive`` (zip), ``seal`` and
``crypto`` (signatures and encryption).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maas_sdk.bundle.files.weights import Weights, open_weights, write_weights
from maas_sdk.bundle.folder import Bundle, BundleWriter, open_bundle
from maas_sdk.bundle.manifest import Manifest
from maas_sdk.faces import lazy_names

if TYPE_CHECKING:
    from maas_sdk.bundle.manifest import Program
    from maas_sdk.bundle.seal import seal_bundle

__all__ = [
    "Bundle",
    "BundleWriter",
    "Manifest",
    "Program",
    "Weights",
    "open_bundle",
    "open_weights",
    "seal_bundle",
    "write_weights",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(
        __name__,
        {
            "Program": "manifest",
            "seal_bundle": "seal",
        },
    )
