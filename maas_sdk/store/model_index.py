"""A model's index: its one mutable object, which lists its versions and labels.

    {"schema": 1,
     "versions": {"3": {"id": …, "published": …, "total_bytes": …,
                        "heads": {"manifest.json": {"size_bytes": …, "sha256": …}}}},
     "retired": {"1": {"at": …, "version": {…}}},
     "labels": {"stable": ["3", "2"]}}

A version is published when the pointer names it, and by nothing else. Its heads are the files that
no manifest lists: the manifest itself, and the files beside it. The rule: pure functions; the next
version has a number that was never used, and a version in a label's history is not retired.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from maas_sdk.bundle.files import strict_json as read
from maas_sdk.bundle.manifest import MANIFEST, FileEntry
from maas_sdk.errors import ConfigError, CorruptError, DependencyError, ManifestError
from maas_sdk.store.labels import Labels
from maas_sdk.store.reference import check_label, is_version

__all__ = ["Pointer", "Retired", "Version"]

_SCHEMA: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """A published version."""

    # Of the publication, at random: a publisher knows its own when an answer got lost.
    id: str
    # UTC, RFC 3339, to the second.
    published: str
    # Of all files, heads included.
    total_bytes: int
    # By path in the bundle: the files that the manifest does not list.
    heads: Mapping[str, FileEntry]


@dataclass(frozen=True, kw_only=True, slots=True)
class Retired:
    """A version that is no longer published; its objects stay for those who still read them."""

    # Seconds since the epoch.
    at: int
    version: Version


@dataclass(frozen=True, kw_only=True, slots=True)
class Pointer:
    """All published versions and labels of a model."""

    versions: Mapping[str, Version] = field(default_factory=dict)
    retired: Mapping[str, Retired] = field(default_factory=dict)
    labels: Labels = field(default_factory=dict)

    def numbers(self) -> list[str]:
        """Return published versions, ascending as numbers."""
        return sorted(self.versions, key=int)

    def publish(self, version: Version, number: str | None, where: str) -> tuple[Pointer, str]:
        """Return the pointer with one more version, and its number; None takes the next one.

        Raises:
            ConfigError: that number is taken, or was.
        """
        taken = {*self.versions, *self.retired}
        if number is None:
            number = str(max(map(int, taken), default=0) + 1)
        if number in taken:
            raise ConfigError(
                f"{where}: version {number} exists already"
                + ("" if number in self.versions else ", retired")
                + "; a version never changes: publish under another number, or none for the next",
                exists=True,
                version=number,
            )
        return replace(self, versions={**self.versions, number: version}), number

    def retire(self, keep: int, now_s: int) -> Pointer:
        """Return the pointer with the latest ``keep`` ≥ 1 versions and the labelled ones only."""
        kept = {*self.numbers()[-keep:], *(v for line in self.labels.values() for v in line)}
        gone = {
            number: Retired(at=now_s, version=version)
            for number, version in self.versions.items()
            if number not in kept
        }
        return replace(
            self,
            versions={n: v for n, v in self.versions.items() if n not in gone},
            retired={**self.retired, **gone},
        )

    def forget(self, before_s: float) -> Pointer:
        """Return the pointer without the versions retired before a time."""
        left = {n: gone for n, gone in self.retired.items() if gone.at >= before_s}
        return replace(self, retired=left)

    def heads(self) -> list[Mapping[str, FileEntry]]:
        """Return the head files of every version whose objects must stay."""
        gone = [retired.version for retired in self.retired.values()]
        return [version.heads for version in (*self.versions.values(), *gone)]

    def to_json(self) -> bytes:
        """Return UTF-8 JSON, keys sorted."""
        document = {
            "schema": _SCHEMA,
            "versions": {number: _version_out(v) for number, v in self.versions.items()},
            "retired": {
                number: {"at": gone.at, "version": _version_out(gone.version)}
                for number, gone in self.retired.items()
            },
            "labels": {label: list(line) for label, line in self.labels.items()},
        }
        return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Pointer:
        """Read a pointer from JSON.

        Raises:
            CorruptError: it is none; says where it lies and what is wrong.
            DependencyError: it is of a newer schema than this release reads.
        """
        try:
            document = read.decode(data)
            schema = read.exactly(dict)(document, "pointer").pop("schema", None)
            if type(schema) is int and schema > _SCHEMA:
                raise DependencyError(
                    f"{where} is of schema {schema}, this maas-sdk reads schema {_SCHEMA}: "
                    "pip install --upgrade maas-sdk"
                )
            if schema != _SCHEMA or type(schema) is not int:
                raise ManifestError(f"pointer.schema: expected {_SCHEMA}, got {schema!r}")
            pointer: Pointer = _POINTER_IN(document, "pointer")
            _check(pointer)
        except (ValueError, RecursionError, ManifestError) as error:
            raise CorruptError(
                f"{where} does not name the versions of a model ({error}); nothing was changed: "
                "put the object's earlier generation back"
            ) from error
        return pointer


def _version_out(version: Version) -> dict[str, Any]:
    return {
        "id": version.id,
        "published": version.published,
        "total_bytes": version.total_bytes,
        "heads": {path: entry._asdict() for path, entry in version.heads.items()},
    }


def _check(pointer: Pointer) -> None:
    for number in (*pointer.versions, *pointer.retired):
        if not is_version(number):
            raise ManifestError(f"pointer.versions: {number!r} is no version")
    for heads in pointer.heads():
        if MANIFEST not in heads:
            raise ManifestError(f"pointer.versions: a version without {MANIFEST}")
        for path, entry in heads.items():
            plain = path not in ("", ".", "..") and not set(path) & set("/\\:\0")
            if not plain or entry.size_bytes < 0 or not _is_sha256(entry.sha256):
                raise ManifestError(f"pointer.versions: {path!r} is no file of a bundle")
    for label, line in pointer.labels.items():
        try:
            check_label(label)
        except ConfigError as error:
            raise ManifestError(f"pointer.labels: {error}") from error
        if not line or line[0] not in pointer.versions:
            raise ManifestError(f"pointer.labels.{label}: points at no version")


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")


_VERSION_IN: Final = read.record(
    Version,
    {
        "id": read.string,
        "published": read.string,
        "total_bytes": read.exactly(int),
        "heads": read.map_of(
            read.record(FileEntry, {"size_bytes": read.exactly(int), "sha256": read.string})
        ),
    },
)
_POINTER_IN: Final = read.record(
    Pointer,
    {
        "versions": read.map_of(_VERSION_IN),
        "retired": read.map_of(
            read.record(Retired, {"at": read.exactly(int), "version": _VERSION_IN})
        ),
        "labels": read.map_of(read.list_of(read.string)),
    },
)
