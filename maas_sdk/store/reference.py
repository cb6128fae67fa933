"""References to models in a store, such as ``gs://bucket/models/digits@3``: parts and rules.

    <store>/<model>[@<version>|@<label>]

The rule: a version is a whole number from 1 and never changes; a label, such as ``stable``, is a
name that starts with a letter and can be moved from version to version. So the two are never taken
for one another.
"""

from __future__ import annotations

import os
import re
from typing import Final, NamedTuple

from maas_sdk.bundle.manifest import is_name
from maas_sdk.errors import ConfigError

__all__ = [
    "Published",
    "StoreReference",
    "check_label",
    "check_model",
    "check_version",
    "is_version",
    "listing",
    "parse_reference",
]

_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}")
_LABEL: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")


class StoreReference(NamedTuple):
    """A model in a store, and its version or label."""

    # URL or path of the store.
    store: str
    model: str
    # At most one of the two; neither means the latest version.
    version: str | None = None
    label: str | None = None

    def __str__(self) -> str:
        what = self.version or self.label
        return f"{self.store}/{self.model}" + (f"@{what}" if what else "")


class Published(NamedTuple):
    """A published version: number, time, size and labels."""

    version: str
    # UTC, RFC 3339, to the second.
    published: str
    # Of all files.
    total_bytes: int
    # That are at this version, sorted.
    labels: tuple[str, ...]


def parse_reference(text: str | os.PathLike[str]) -> StoreReference:
    """Parse ``<store>/<model>[@<version>|@<label>]``.

    Raises:
        ConfigError: no store or no model in it, or what follows ``@`` is neither version nor label.
    """
    given = os.fspath(text)
    store, separator, last = given.rstrip("/").rpartition("/")
    model, at, which = last.partition("@")
    if not separator or not store or store.endswith(":/"):
        raise ConfigError(
            f"{given!r}: expected a store and a model in it, such as gs://bucket/models/digits or "
            "store/digits@3"
        )
    check_model(model)
    if not at:
        return StoreReference(store, model)
    if is_version(which):
        return StoreReference(store, model, version=which)
    if _LABEL.fullmatch(which):
        return StoreReference(store, model, label=which)
    raise ConfigError(
        f"{given!r}: after '@' expected a version such as 3 or a label such as stable, "
        f"got {which!r}"
    )


def is_version(text: str) -> bool:
    """Return True when a text is a version's number."""
    return _VERSION.fullmatch(text) is not None


def check_model(name: str) -> str:
    """Return the name. Raises ``ConfigError`` if it is not valid."""
    if not is_name(name):
        raise ConfigError(
            f"{name!r} is not a model's name: expected letters, digits, '.', '_' and '-', "
            "starting with a letter or digit"
        )
    return name


def check_version(version: str | int) -> str:
    """Return the version as text. Raises ``ConfigError`` if it is no whole number ≥ 1."""
    text = str(version)
    if not is_version(text):
        raise ConfigError(f"version {text!r}: expected a whole number ≥ 1, such as 3")
    return text


def check_label(label: str) -> str:
    """Return the label. Raises ``ConfigError`` if it is not valid."""
    if not _LABEL.fullmatch(label):
        raise ConfigError(
            f"label {label!r}: expected a letter, then letters, digits, '.', '_' and '-', such as "
            "stable"
        )
    return label


def listing(names: list[str]) -> str:
    """Join names for a message."""
    return ", ".join(names) or "none"
