"""Where published bundles live: models, and under each its versions.

    <root>/<model>/<version>/manifest.json …

The rule: a version is a positive whole number, is published once and never changes. Publishing
copies: a hard link would share its bytes with the bundle that it came from, and whoever changed
that file in place would change a version that servers have loaded.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, Protocol

from maas_sdk.bundle.folder import copy_bundle, open_bundle
from maas_sdk.bundle.manifest import is_name
from maas_sdk.bundle.staging import Staging
from maas_sdk.errors import ConfigError, NotFoundError

__all__ = ["LocalStore", "Store", "open_store"]

_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}")


class Store(Protocol):
    """Models and their versions, wherever they are kept."""

    def models(self) -> list[str]:
        """Names of models with at least one version, sorted."""

    def versions(self, model: str) -> list[str]:
        """Versions of a model, ascending as numbers. Raises ``NotFoundError`` for no model."""

    def resolve(self, model: str, version: str | int | None = None) -> Path:
        """Local folder of a version, by default the latest. Raises ``NotFoundError``."""

    def publish(
        self,
        bundle_path: str | os.PathLike[str],
        model: str,
        version: str | int | None = None,
    ) -> str:
        """Add a version, by default the one after the latest, and return it."""


class LocalStore:
    """A ``Store`` in a folder of this machine, or of a volume mounted on it.

    Attributes:
        root: the folder; ``publish`` makes it where it is absent.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def models(self) -> list[str]:
        """Names of models with at least one version, sorted."""
        return sorted(n for n in _folders(self.root) if is_name(n) and self._versions(n))

    def versions(self, model: str) -> list[str]:
        """Versions of a model, ascending as numbers.

        Raises:
            NotFoundError: no version of the model was published; lists the models there are.
        """
        found = self._versions(_model(model))
        if not found:
            raise NotFoundError(
                f"no model {model!r} in {self.root}; it has {_listing(self.models())}", model=model
            )
        return found

    def resolve(self, model: str, version: str | int | None = None) -> Path:
        """Folder of a version, by default of the one with the highest number.

        Raises:
            NotFoundError: no such model or version; lists what there is.
            ConfigError: ``model`` or ``version`` is not a name or number.
        """
        found = self.versions(model)
        wanted = found[-1] if version is None else _version(version)
        if wanted not in found:
            raise NotFoundError(
                f"no version {wanted} of model {model!r} in {self.root}; it has {_listing(found)}",
                model=model,
                version=wanted,
            )
        return self.root / model / wanted

    def publish(
        self,
        bundle_path: str | os.PathLike[str],
        model: str,
        version: str | int | None = None,
    ) -> str:
        """Copy a bundle into the store, every byte checked, and return its version.

        The version appears whole or not at all. Two who publish at once get different versions.

        Raises:
            ConfigError: that version exists, or ``model`` or ``version`` is not one.
            BundleError: the bundle is corrupt, or the disk is full.
        """
        model = _model(model)
        bundle = open_bundle(bundle_path)
        if version is not None:
            target = self.root / model / _version(version)
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
        return sorted(filter(_VERSION.fullmatch, _folders(self.root / model)), key=int)


def open_store(url: str | os.PathLike[str]) -> Store:
    """The store at a path or ``file://`` URL.

    Raises:
        ConfigError: any other kind of URL. ``gs://`` is planned; this release has no such store.
    """
    text = os.fspath(url)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return LocalStore(text)
    if scheme == "file":
        from urllib.parse import unquote

        host, _, path = rest.partition("/")
        if host in ("", "localhost"):
            return LocalStore("/" + unquote(path))
        raise ConfigError(f"{text}: a file URL names no host: write file:///{path}")
    if scheme == "gs":
        raise ConfigError(
            f"{text}: this release has no store for gs://; mount the bucket as a folder (Cloud "
            "Storage FUSE, or a Cloud Run volume) or copy it, and give that folder's path"
        )
    raise ConfigError(f"{text}: no store for {scheme}://; give a folder's path or file:// URL")


def _folders(path: Path) -> list[str]:
    """Names of the folders below; none where ``path`` is no folder."""
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _model(name: str) -> str:
    if not is_name(name):
        raise ConfigError(
            f"{name!r} is not a model's name: expected letters, digits, '.', '_' and '-', "
            "starting with a letter or digit"
        )
    return name


def _version(version: str | int) -> str:
    text = str(version)
    if not _VERSION.fullmatch(text):
        raise ConfigError(f"version {text!r}: expected a whole number ≥ 1, such as 3")
    return text


def _listing(names: list[str]) -> str:
    return ", ".join(names) or "none"
