"""Garbage collection of a remote store, safe while others publish into it.

The theory. An object that no published version needs is deleted when it is older than an age, and
only in the very state in which it was listed. A publisher that finds an object older than half of
the least age refreshes it, which changes its state; a younger one is left, and the publisher swaps
the pointer within half of that half, or checks all objects again. The collector lists objects
before it reads pointers. So an object that it takes for garbage cannot have become part of a
version: it was refreshed, and is in another state, or its publisher has long swapped the pointer.
The clocks of publishers, collectors and the store may differ by half an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from maas_sdk.bundle.manifest import MANIFEST, FileEntry, Manifest
from maas_sdk.errors import ConfigError
from maas_sdk.store.model_index import Pointer
from maas_sdk.store.model_indexes import Pointers
from maas_sdk.store.transfer import fetch, object_name

__all__ = ["FRESH_S", "MIN_AGE_S", "Collected", "collect", "files_of"]

# The least age at which an object may be collected.
MIN_AGE_S: Final = 2 * 3600.0
# What a publisher refreshes, and twice as long as it may take from looking to swapping.
FRESH_S: Final = MIN_AGE_S / 2


class Collected(NamedTuple):
    """Result of garbage collection, done or rehearsed."""

    # Versions that are no longer published, by model.
    retired: Mapping[str, list[str]]
    # How many objects were deleted, and their size.
    objects: int
    nbytes: int


def collect(
    pointers: Pointers,
    clock: Callable[[], float],
    *,
    keep: int | None,
    age_s: float,
    dry_run: bool,
) -> Collected:
    """Delete what no published version needs; see ``RemoteStore.collect``."""
    if age_s < MIN_AGE_S:
        raise ConfigError(
            f"an age of {age_s:g} s: expected at least {MIN_AGE_S:g}, two hours; a version that is "
            "being published has nothing that points at it yet"
        )
    if keep is not None and keep < 1:
        raise ConfigError(f"keep {keep} versions: expected at least 1")
    objects, now = pointers.objects, clock()
    listed = [*objects.find("objects/"), *objects.find("uploads/")]

    def tidied(pointer: Pointer) -> Pointer:
        pointer = pointer.forget(now - age_s)
        return pointer if keep is None else pointer.retire(keep, int(now))

    retired: dict[str, list[str]] = {}
    needed: set[str] = set()
    for model in pointers.models():
        before = set(pointers.read(model)[0].versions)
        new = tidied(pointers.read(model)[0]) if dry_run else pointers.swap(model, tidied)
        if gone := sorted(before - set(new.versions), key=int):
            retired[model] = gone
        for heads in new.heads():
            needed |= {object_name(entry.sha256) for entry in files_of(pointers, heads).values()}
    garbage = [i for i in listed if i.name not in needed and i.changed_s < now - age_s]
    deleted = [info for info in garbage if dry_run or objects.delete(info)]
    return Collected(retired, len(deleted), sum(info.size_bytes for info in deleted))


def files_of(pointers: Pointers, heads: Mapping[str, FileEntry]) -> dict[str, FileEntry]:
    """All files of a version, by path. Raises ``BundleError`` if its manifest cannot be read."""
    manifest = Manifest.from_json(fetch(pointers.objects, heads[MANIFEST]))
    return {**manifest.files, **heads}
