"""A store over object storage: versions are published by one atomic pointer per model.

    models/<model>.json              the pointer (``model_index.py``), the only object that changes
    objects/<ab>/<sha256>            files, by content (``transfer.py``)
    uploads/…                        parts on their way

Publishing sends all files, then swaps the pointer for one that names the version, if the pointer
still is the one that was read; else it is read again. So a version is there with all its files or
not at all, whenever its publisher dies, and two publishers get two numbers. The objects of a dead
publisher are collected later (``garbage_collection.py``).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from maas_sdk.bundle.files.staging import Staging
from maas_sdk.bundle.folder import Bundle, open_bundle
from maas_sdk.bundle.manifest import MANIFEST, FileEntry, Manifest
from maas_sdk.errors import CorruptError, NotFoundError
from maas_sdk.store.cache import BundleCache, default_cache
from maas_sdk.store.garbage_collection import FRESH_S, Collected, collect, files_of
from maas_sdk.store.labels import labelled, moved, moved_back
from maas_sdk.store.model_index import Pointer, Version
from maas_sdk.store.model_indexes import Pointers
from maas_sdk.store.objects import Objects
from maas_sdk.store.reference import (
    Published,
    check_label,
    check_model,
    check_version,
    listing,
)
from maas_sdk.store.transfer import allocate, pull, push

__all__ = ["RemoteStore"]


class RemoteStore:
    """A ``Store`` over objects; bundles are opened from a cache on this machine.

    Attributes:
        objects: where everything is.
        url: of the store, for messages.
    """

    def __init__(
        self,
        objects: Objects,
        cache: BundleCache | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Set up the store, without reading anything.

        Args:
            objects: where everything is.
            cache: where bundles are kept here; None: ``default_cache()``, when it is needed.
            clock: seconds since the epoch.
        """
        self.objects = objects
        self.url = objects.url
        self._pointers = Pointers(objects)
        self._cache = cache
        self._clock = clock

    def models(self) -> list[str]:
        """Return names of models with at least one version, sorted."""
        return self._pointers.models()

    def versions(self, model: str) -> list[str]:
        """Return versions of a model, ascending as numbers.

        Raises:
            NotFoundError: no version of the model was published; lists the models there are.
        """
        return self._pointers.known(model).numbers()

    def labels(self, model: str) -> dict[str, str]:
        """Return the version of each label of a model. Raises as ``versions``."""
        return {
            label: line[0] for label, line in sorted(self._pointers.known(model).labels.items())
        }

    def number(self, model: str, label: str | None = None) -> str:
        """Return the version of a label, or the latest. Raises as ``resolve``."""
        pointer = self._pointers.known(model)
        if label is None:
            return pointer.numbers()[-1]
        return labelled(pointer.labels, label, f"{self.url}/{model}")

    def history(self, model: str) -> list[Published]:
        """Return all versions of a model, ascending. Raises as ``versions``."""
        pointer = self._pointers.known(model)
        return [
            Published(
                number,
                pointer.versions[number].published,
                pointer.versions[number].total_bytes,
                tuple(sorted(name for name, line in pointer.labels.items() if line[0] == number)),
            )
            for number in pointer.numbers()
        ]

    def resolve(
        self, model: str, version: str | int | None = None, *, label: str | None = None
    ) -> Path:
        """Return a version's folder in the cache, fetched if absent; by default the latest.

        It stays in the cache for as long as this process lives.

        Raises:
            NotFoundError: no such model, version or label; lists what there is.
            ConfigError: ``model``, ``version`` or ``label`` is none.
            BundleError: what was fetched is not what was published.
            MachineError: no credentials, no right, or no room in the cache.
            TransportError: no answer came.
        """
        found = self._version(model, version, label)
        self._cache = self._cache or default_cache()
        return self._cache.get(
            found.heads[MANIFEST].sha256,
            lambda: files_of(self._pointers, found.heads),
            lambda files: pull(self.objects, files),
        )

    def copy(
        self,
        model: str,
        target: str | os.PathLike[str],
        version: str | int | None = None,
        *,
        label: str | None = None,
        overwrite: bool = False,
    ) -> Bundle:
        """Fetch a version into another folder, which appears whole or not at all.

        Raises as ``resolve``, and ``ConfigError`` if ``target`` exists and ``overwrite`` is off.
        """
        with Staging(target, overwrite=overwrite) as staging:
            files = files_of(self._pointers, self._version(model, version, label).heads)
            for name, entry in files.items():
                allocate(staging.path / name, entry.size_bytes)
            pull(self.objects, {staging.path / name: entry for name, entry in files.items()})
            staging.commit()
        return open_bundle(staging.target)

    def publish(
        self,
        bundle_path: str | os.PathLike[str],
        model: str,
        version: str | int | None = None,
        *,
        label: str | None = None,
    ) -> str:
        """Upload the files of a bundle that the store lacks, and return the version.

        The version appears whole or not at all. Two who publish at once get different versions.

        Args:
            bundle_path: the bundle's folder.
            model: its name in the store.
            version: a number that was not used; None: the one after the latest.
            label: set to the version in the same step.

        Raises:
            ConfigError: that version exists, or ``model``, ``version`` or ``label`` is none.
            BundleError: the bundle is corrupt.
            CredentialsError: no credentials, or no right to write.
            TransportError: no answer came; nothing was published.
        """
        check_model(model)
        number = None if version is None else check_version(version)
        if label is not None:
            check_label(label)
        bundle = open_bundle(bundle_path)
        # First, so that a bucket that cannot be used, or a number that is taken, is told at once.
        known, _ = self._pointers.read(model)
        if number is not None:
            known.publish(_NOTHING, number, f"{self.url}/{model}")
        heads = _heads(bundle)
        files = {**bundle.manifest.files, **heads}
        here = {bundle.path / name: entry for name, entry in files.items()}
        entry = Version(
            id=os.urandom(16).hex(),
            published=datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            total_bytes=sum(file.size_bytes for file in files.values()),
            heads=heads,
        )
        while True:
            began = self._clock()
            push(self.objects, here, fresh_s=began - FRESH_S)
            if self._clock() - began < FRESH_S / 2:
                break

        def change(pointer: Pointer) -> Pointer:
            for known in (pointer.versions, {n: r.version for n, r in pointer.retired.items()}):
                for taken, found in known.items():
                    if found.id == entry.id:  # the answer to our swap got lost
                        published.append(taken)
                        return pointer
            pointer, taken = pointer.publish(entry, number, f"{self.url}/{model}")
            published.append(taken)
            if label is not None:
                pointer = replace(pointer, labels=moved(pointer.labels, label, taken))
            return pointer

        published: list[str] = []
        self._pointers.swap(model, change)
        return published[-1]

    def promote(self, model: str, version: str | int, label: str = "stable") -> str | None:
        """Set a label to a version; return its previous version.

        Raises:
            NotFoundError: no such model or version.
        """
        wanted, before = check_version(version), self.labels(model).get(check_label(label))

        def change(pointer: Pointer) -> Pointer:
            if wanted not in pointer.versions:
                raise self._no_version(model, wanted, pointer)
            return replace(pointer, labels=moved(pointer.labels, label, wanted))

        self._pointers.swap(model, change)
        return before

    def rollback(self, model: str, label: str = "stable") -> str:
        """Set a label back to its previous version, and return that.

        Raises:
            NotFoundError: no such model or label.
            ConfigError: it was at no other version before.
        """
        self._pointers.known(model)
        wanted: list[str] = []

        def change(pointer: Pointer) -> Pointer:
            if wanted and labelled(pointer.labels, label, f"{self.url}/{model}") == wanted[-1]:
                return pointer  # the answer to our swap got lost
            there = set(pointer.versions)
            back = moved_back(pointer.labels, label, f"{self.url}/{model}", there)
            wanted.append(back[label][0])
            return replace(pointer, labels=back)

        return self._pointers.swap(model, change).labels[label][0]

    def collect(
        self, *, keep: int | None = None, age_s: float = 24 * 3600.0, dry_run: bool = False
    ) -> Collected:
        """Delete the objects that no published version needs.

        Args:
            keep: of each model only the latest so many versions stay published, and those that a
                label is at or was at; None: all stay. What is retired is deleted a whole age later.
            age_s: younger objects stay: they may be of a version that is being published.
            dry_run: only tell.

        Raises:
            ConfigError: ``keep`` is under 1, or ``age_s`` under ``MIN_AGE_S``.
            CorruptError: a pointer or a manifest cannot be read; nothing was deleted.
        """
        return collect(self._pointers, self._clock, keep=keep, age_s=age_s, dry_run=dry_run)

    def _version(self, model: str, version: str | int | None, label: str | None = None) -> Version:
        wanted = None if version is None else check_version(version)
        pointer = self._pointers.known(model)
        if label is not None:
            wanted = labelled(pointer.labels, label, f"{self.url}/{model}")
        wanted = wanted or pointer.numbers()[-1]
        if wanted not in pointer.versions:
            raise self._no_version(model, wanted, pointer)
        return pointer.versions[wanted]

    def _no_version(self, model: str, version: str, pointer: Pointer) -> NotFoundError:
        retired = ", which was retired" if version in pointer.retired else ""
        return NotFoundError(
            f"no version {version} of model {model!r} in {self.url}{retired}; it has "
            f"{listing(pointer.numbers())}",
            model=model,
            version=version,
        )


_NOTHING: Final = Version(id="", published="", total_bytes=0, heads={})


def _heads(bundle: Bundle) -> dict[str, FileEntry]:
    """Return the files of a bundle's folder that its manifest does not list, itself included."""
    heads = {}
    for path in sorted(bundle.path.iterdir()):
        if path.is_file() and path.name not in bundle.manifest.files:
            data = path.read_bytes()
            if path.name == MANIFEST and Manifest.from_json(data) != bundle.manifest:
                raise CorruptError(f"{path} changed while it was published; nothing was published")
            heads[path.name] = FileEntry(len(data), hashlib.sha256(data).hexdigest())
    return heads
