"""Stores: models and their versions, in folders and in buckets.

    from maas_sdk.store import open_store

    version = open_store("gs://bucket/models").publish("digits.maas", "digits", label="stable")

``find_bundle`` gives the folder of a bundle wherever it is. Names are imported when they are asked
for: a command on a bundle's folder knows no store, and a store in a folder no bucket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maas_sdk.faces import lazy_names

if TYPE_CHECKING:
    from maas_sdk.store.local import LocalStore
    from maas_sdk.store.opening import Store, open_store
    from maas_sdk.store.reference import Published, StoreReference, parse_reference
    from maas_sdk.store.resolve import find_bundle, find_version, in_store

__all__ = [
    "LocalStore",
    "Published",
    "Store",
    "StoreReference",
    "find_bundle",
    "find_version",
    "in_store",
    "open_store",
    "parse_reference",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(
        __name__,
        {
            "LocalStore": "local",
            "Store": "opening",
            "open_store": "opening",
            "Published": "reference",
            "StoreReference": "reference",
            "parse_reference": "reference",
            "find_bundle": "resolve",
            "find_version": "resolve",
            "in_store": "resolve",
        },
    )
