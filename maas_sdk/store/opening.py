"""Stores of published bundles: models, and under each its versions.

    gs://bucket/models         a bucket (``remote.py`` over ``gcs.py``)
    store, file:///srv/store   a folder of versions (``local.py``), opened where they lie
    memory://name              this process's memory, for tests

The rule: a version is a positive whole number, is published once, appears whole or not at all, and
never changes. What can change is which version a label, such as ``stable``, is at.
"""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from maas_sdk.errors import ConfigError
from maas_sdk.store.local import LocalStore

if TYPE_CHECKING:
    from maas_sdk.bundle.folder import Bundle
    from maas_sdk.store.objects import MemoryObjects
    from maas_sdk.store.reference import Published

__all__ = ["LocalStore", "Store", "open_store"]

# https://cloud.google.com/storage/docs/buckets#naming
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
# What was opened in this process, so that a name means the same objects.
_MEMORY: Final[dict[str, MemoryObjects]] = {}
_MEMORY_LOCK: Final = threading.Lock()


class Store(Protocol):
    """Models and their versions, wherever they are kept."""

    def models(self) -> list[str]:
        """Return names of models with at least one version, sorted."""

    def versions(self, model: str) -> list[str]:
        """Return versions of a model, ascending. Raises ``NotFoundError`` for no model."""

    def labels(self, model: str) -> dict[str, str]:
        """Return the version of each label of a model. Raises as ``versions``."""

    def number(self, model: str, label: str | None = None) -> str:
        """Return the version of a label, or the latest. Raises ``NotFoundError`` for none."""

    def history(self, model: str) -> list[Published]:
        """Return all versions of a model, ascending. Raises as ``versions``."""

    def resolve(
        self, model: str, version: str | int | None = None, *, label: str | None = None
    ) -> Path:
        """Return the local folder of a version, by default the latest. Raises ``NotFoundError``."""

    def copy(
        self,
        model: str,
        target: str | os.PathLike[str],
        version: str | int | None = None,
        *,
        label: str | None = None,
        overwrite: bool = False,
    ) -> Bundle:
        """Copy a version into another folder, checking every byte."""

    def publish(
        self,
        bundle_path: str | os.PathLike[str],
        model: str,
        version: str | int | None = None,
        *,
        label: str | None = None,
    ) -> str:
        """Add a version, by default the one after the latest, and return it."""

    def promote(self, model: str, version: str | int, label: str = "stable") -> str | None:
        """Set a label to a version; return its previous version."""

    def rollback(self, model: str, label: str = "stable") -> str:
        """Set a label back to its previous version, and return that."""


def open_store(url: str | os.PathLike[str]) -> Store:
    """Return the store at a path or URL, without connecting or reading.

    Raises:
        ConfigError: any other kind of URL, or a part of it that cannot be.
    """
    text = os.fspath(url)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return LocalStore(text)
    # What a folder does not need is imported only here and below.
    if scheme == "file":
        return LocalStore(_path(text, rest))
    if scheme not in ("gs", "memory"):
        raise ConfigError(
            f"{text}: no store for {scheme}://; give a folder's path or a URL with file://, gs://, "
            "or memory://"
        )
    from maas_sdk.store.remote import RemoteStore

    if scheme == "gs":
        from maas_sdk.store.gcs import GcsObjects

        bucket, _, prefix = rest.partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise ConfigError(
                f"{text}: {bucket!r} is no bucket's name: expected small letters, digits, '-', "
                "'_' and '.', such as gs://my-models/production"
            )
        return RemoteStore(GcsObjects(bucket, prefix.strip("/")))
    from maas_sdk.store.objects import MemoryObjects

    with _MEMORY_LOCK:
        return RemoteStore(_MEMORY.setdefault(rest, MemoryObjects(text)))


def _path(text: str, rest: str) -> Path:
    from urllib.parse import unquote

    host, _, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise ConfigError(
            f"{text}: a file URL names no host: write {text.partition(':')[0]}:///{path}"
        )
    return Path("/" + unquote(path))
