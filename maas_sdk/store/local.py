"""A store in a folder of this machine, or of a volume mounted on it.

    <root>/<model>/<version>/manifest.json …
    <root>/<model>/.labels.json

The rule: a version is a positive whole number, is published once and never changes. Publishing
copies: a hard link would share its bytes with the bundle that it came from, and a change to that
file in place would change a version that servers have loaded.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from maas_sdk.bundle.files import strict_json as read
from maas_sdk.bundle.files.staging import Staging, disk_errors
from maas_sdk.bundle.folder import Bundle, copy_bundle, open_bundle
from maas_sdk.bundle.manifest import MANIFEST, is_name
from maas_sdk.errors import ConfigError, CorruptError, ManifestError, NotFoundError
from maas_sdk.store.labels import Labels, labelled, moved, moved_back
from maas_sdk.store.reference import (
    Published,
    check_label,
    check_model,
    check_version,
    is_version,
    listing,
)

__all__ = ["LocalStore"]

_LABELS: Final = ".labels.json"
_LABELS_IN: Final = read.map_of(read.list_of(read.string))


class LocalStore:
    """A ``Store`` in a folder of this machine, or of a volume mounted on it.

    Attributes:
        root: the folder; ``publish`` makes it where it is absent.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def models(self) -> list[str]:
        """Return names of models with at least one version, sorted."""
        return sorted(n for n in _folders(self.root) if is_name(n) and self._versions(n))

    def versions(self, model: str) -> list[str]:
        """Return versions of a model, ascending as numbers.

        Raises:
            NotFoundError: no version of the model was published; lists the models there are.
        """
        found = self._versions(check_model(model))
        if not found:
            raise NotFoundError(
                f"no model {model!r} in {self.root}; it has {listing(self.models())}", model=model
            )
        return found

    def labels(self, model: str) -> dict[str, str]:
        """Return the version of each label of a model. Raises as ``versions``."""
        found = set(self.versions(model))
        lines = sorted(self._labels(model).items())
        return {label: line[0] for label, line in lines if line[0] in found}

    def number(self, model: str, label: str | None = None) -> str:
        """Return the version of a label, or the latest. Raises as ``resolve``."""
        return self.resolve(model, label=label).name

    def history(self, model: str) -> list[Published]:
        """Return all versions of a model, ascending. Raises as ``versions``."""
        labels = self.labels(model)
        return [
            Published(
                version,
                _time(self.root / model / version / MANIFEST),
                sum(_sizes(self.root / model / version)),
                tuple(label for label, at in labels.items() if at == version),
            )
            for version in self.versions(model)
        ]

    def resolve(
        self, model: str, version: str | int | None = None, *, label: str | None = None
    ) -> Path:
        """Return the folder of a version, by default the latest.

        Raises:
            NotFoundError: no such model, version or label; lists what there is.
            ConfigError: ``model``, ``version`` or ``label`` is not a name or number.
        """
        found = self.versions(model)
        wanted = found[-1] if version is None else check_version(version)
        if label is not None:
            wanted = labelled(self._labels(model), label, f"{self.root}/{model}")
        if wanted not in found:
            raise NotFoundError(
                f"no version {wanted} of model {model!r} in {self.root}; it has {listing(found)}",
                model=model,
                version=wanted,
            )
        return self.root / model / wanted

    def copy(
        self,
        model: str,
        target: str | os.PathLike[str],
        version: str | int | None = None,
        *,
        label: str | None = None,
        overwrite: bool = False,
    ) -> Bundle:
        """Copy a version into another folder, checking every byte.

        Raises as ``resolve``, and ``ConfigError`` if ``target`` exists and ``overwrite`` is off.
        """
        bundle = open_bundle(self.resolve(model, version, label=label))
        with Staging(target, overwrite=overwrite) as staging:
            copy_bundle(bundle, staging.path)
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
        """Copy a bundle into the store, checking every byte, and return its version.

        The version appears whole or not at all. Two who publish at once get different versions.

        Args:
            bundle_path: the bundle's folder.
            model: its name in the store.
            version: a number that is free; None: the one after the latest.
            label: set to the version once it is there.

        Raises:
            ConfigError: that version exists, or ``model``, ``version`` or ``label`` is not one.
            BundleError: the bundle is corrupt.
            StorageError: the disk is full.
        """
        if label is not None:
            check_label(label)
        number = self._add(bundle_path, check_model(model), version)
        if label is not None:
            self.promote(model, number, label)
        return number

    def promote(self, model: str, version: str | int, label: str = "stable") -> str | None:
        """Set a label to a version; return its previous version.

        Raises:
            NotFoundError: no such model or version.
        """
        wanted, before = self.resolve(model, version).name, self.labels(model).get(label)
        self._change(model, lambda labels: moved(labels, label, wanted))
        return before

    def rollback(self, model: str, label: str = "stable") -> str:
        """Set a label back to its previous version, and return that.

        Raises:
            NotFoundError: no such model or label.
            ConfigError: it was at no other version before.
        """
        there, where = set(self.versions(model)), f"{self.root}/{model}"
        return self._change(model, lambda labels: moved_back(labels, label, where, there))[label][0]

    def _add(
        self, bundle_path: str | os.PathLike[str], model: str, version: str | int | None
    ) -> str:
        bundle = open_bundle(bundle_path)
        if version is not None:
            target = self.root / model / check_version(version)
            with Staging(target) as staging:
                copy_bundle(bundle, staging.path)
                staging.commit()
            return target.name
        # Staged under no number: the number is taken by the rename, or the next one is tried.
        with Staging(self.root / model / "next") as staging:
            copy_bundle(bundle, staging.path)
            while True:
                latest = self._versions(model)
                staging.target = staging.target.with_name(str(int(latest[-1]) + 1 if latest else 1))
                try:
                    staging.commit()
                except ConfigError as error:
                    if not error.evidence.get("exists"):
                        raise
                else:
                    return staging.target.name

    def _versions(self, model: str) -> list[str]:
        return sorted(filter(is_version, _folders(self.root / model)), key=int)

    def _labels(self, model: str) -> Labels:
        file = self.root / model / _LABELS
        try:
            labels: Labels = _LABELS_IN(read.decode(file.read_bytes()), "labels")
            return labels
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError, ManifestError) as error:
            raise CorruptError(
                f"{file} holds no labels ({error}): remove it, then set them again with "
                "maas promote"
            ) from error

    def _change(self, model: str, change: Callable[[Labels], Labels]) -> Labels:
        """Replace the labels in one step, one process at a time."""
        folder = self.root / model
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            labels = change(self._labels(model))
            draft = folder / f"{_LABELS}.tmp"
            with disk_errors(draft), open(draft, "w", encoding="utf-8") as file:
                file.write(json.dumps(labels, indent=1, sort_keys=True) + "\n")
                file.flush()
                os.fsync(file.fileno())
            draft.rename(folder / _LABELS)
            return labels
        finally:
            os.close(lock)


def _folders(path: Path) -> list[str]:
    """Return names of the folders below; none where ``path`` is no folder."""
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _sizes(folder: Path) -> Iterator[int]:
    for parent, _, names in os.walk(folder):
        yield from (os.stat(os.path.join(parent, name)).st_size for name in names)


def _time(file: Path) -> str:
    return datetime.fromtimestamp(file.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
