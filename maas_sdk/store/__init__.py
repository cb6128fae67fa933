"""Stores: models and their versions, in folders and in buckets.

    from maas_sdk.store import open_store

    version = open_store("gs://bucket/models").publish("digits.maas", "digits", label="stable")

``find_bundle`` gives the folder of a bundle wherever it is. What a bucket needs is imported when
``open_store`` meets one.
"""

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
