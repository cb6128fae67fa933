"""Local folder of a bundle, given as a path or as a model in a store, which is fetched.

    digits.maas                          a folder, as it is
    gs://bucket/models/digits@stable     a model in a store, by a URL of ``opening.py``
    store/digits@3                       a version, or a label, in a store that is a folder

The rule: every reader of a bundle resolves it here, commands and services alike, and a folder costs
nothing: the stores are imported for a store alone.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["find_bundle", "find_version", "in_store"]


def find_bundle(place: str | os.PathLike[str]) -> Path:
    """Return the local folder of a bundle, fetched if in a store. Raises as ``find_version``."""
    return find_version(place)[0]


def find_version(place: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """Return the local folder of a bundle and its version; None for a path outside any store.

    Args:
        place: a folder's path, which is not looked at; or ``<store>/<model>[@<version>|@<label>]``.
            Of a store that is named by a path, the part from the ``@`` is needed.

    Raises:
        ConfigError: no such kind of URL, or no model in it.
        MachineError: no credentials, no right, no package for the store, or no room in the cache.
        NotFoundError: no such store, model, version or label.
        BundleError: what was fetched is not what was published.
        TransportError: no answer came.
    """
    if not in_store(place):
        return Path(place), None
    from maas_sdk.store.opening import open_store
    from maas_sdk.store.reference import parse_reference

    found = parse_reference(place)
    store = open_store(found.store)
    number = found.version or store.number(found.model, found.label)
    return store.resolve(found.model, number), number


def in_store(place: str | os.PathLike[str]) -> bool:
    """Return True for a model in a store; an existing folder with an ``@`` is a folder."""
    text = os.fspath(place)
    parent, _, name = text.rstrip("/").rpartition("/")
    return "://" in text or (bool(parent) and "@" in name and not os.path.lexists(text))
