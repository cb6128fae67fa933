"""The bundle format: a folder that holds a compiled model and everything needed to check it.

Modules: ``manifest`` (the fields), ``files`` (tensors and strict JSON), ``encoding`` (tensors made
from others), ``archive`` (zip), ``seal``, ``signature`` and ``crypto`` (signatures, encryption).
"""

from __future__ import annotations

from maas_sdk.bundle.files.weights import Weights, open_weights, write_weights
from maas_sdk.bundle.folder import Bundle, BundleWriter, open_bundle
from maas_sdk.bundle.manifest import Manifest

__all__ = [
    "Bundle",
    "BundleWriter",
    "Manifest",
    "Weights",
    "open_bundle",
    "open_weights",
    "write_weights",
]
