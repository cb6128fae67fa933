"""``manifest.json``: the description of a bundle, and size and sha256 of every other file in it.

The manifest is strict both ways: what is written is validated, and a manifest that is read is
refused, with the path of the field, when a field is missing, unknown or of the wrong type. A
manifest of a newer schema is refused as such, before its fields are looked at. It is written in the
oldest schema that can say it: 3 has the encryption, 2 has none; 1, which had no encodings and no
compression either, is still read.

The rule for the order of a compiled program's arguments: its weights, in the order that
``Program.weights`` lists them, then its inputs sorted by name. Results are its outputs sorted by
name. File names follow from names: ``stablehlo_path``, ``executable_path``, ``golden_path``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from maas_sdk.bundle.files import strict_json as read
from maas_sdk.bundle.program import Program, Verification, program_out, read_program
from maas_sdk.errors import ManifestError

if TYPE_CHECKING:
    from maas_sdk.bundle.compression import Compression
    from maas_sdk.bundle.crypto.encryption import Encryption
    from maas_sdk.bundle.encoding.spec import Encoding

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "SIGNATURE",
    "WEIGHTS",
    "FileEntry",
    "Manifest",
    "Program",
    "Target",
    "Verification",
    "check_path",
    "executable_path",
    "golden_path",
    "is_name",
    "stablehlo_path",
]

SCHEMA: Final = 3
MANIFEST: Final = "manifest.json"
# Beside the manifest, and not listed in it: what it signs are the manifest's bytes.
SIGNATURE: Final = "signature.json"
WEIGHTS: Final = "weights.safetensors"

# Model, program and target names become path components and URL segments.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CREATED: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def stablehlo_path(program: str, bucket: int) -> str:
    """Return the path of the portable program for a batch of ``bucket`` rows."""
    return f"programs/{program}-b{bucket}.stablehlo"


def executable_path(target: str, program: str, bucket: int) -> str:
    """Return the path of the executable for one target and a batch of ``bucket`` rows."""
    return f"executables/{target}/{program}-b{bucket}.xla"


def golden_path(program: str) -> str:
    """Return the path of a program's golden tensors (``input/<name>``, ``output/<name>``)."""
    return f"golden/{program}.safetensors"


class FileEntry(NamedTuple):
    """Size and hash of one file of the bundle."""

    size_bytes: int
    # Lower-case hex.
    sha256: str


class Target(NamedTuple):
    """Device, compiler and versions of a set of executables."""

    # PJRT platform: "cpu", "cuda", "tpu".
    platform: str
    # Machine architecture as ``platform.machine()`` says it: "x86_64", "aarch64".
    arch: str
    # jaxlib's version and git hash, "0.10.2+990e6a0b"; executables do not cross builds.
    jaxlib: str
    # LLVM names of the processor features without which the executables cannot run, sorted.
    cpu_features: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The whole of ``manifest.json``."""

    # Name of the model.
    name: str
    programs: Mapping[str, Program]
    targets: Mapping[str, Target]
    # Every file but the manifest and its signature, as it lies there, by its path in the bundle
    # with forward slashes.
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    # Version of each package that took part in the export, by distribution name.
    producer: Mapping[str, str] = field(default_factory=dict)
    # UTC, RFC 3339, to the second.
    created: str = "1970-01-01T00:00:00Z"
    # The user's own words, such as accuracy or a training run's id.
    metadata: Mapping[str, str] = field(default_factory=dict)
    # By name of the tensor. One that is a program's weight is decoded when the bundle is opened;
    # another describes what a program consumes as it is stored: codes and scales are its weights.
    encodings: Mapping[str, Encoding] = field(default_factory=dict)
    # None: nothing was compressed, or nobody said how.
    compression: Compression | None = None
    # None: every file lies in the bundle as it is.
    encryption: Encryption | None = None

    def __post_init__(self) -> None:
        _check_names("name", [self.name])
        _check_names("programs", self.programs)
        _check_names("targets", self.targets)
        if not self.programs:
            raise ManifestError("manifest.programs: expected at least one program, got none")
        if not _CREATED.fullmatch(self.created):
            raise ManifestError(
                f"manifest.created: expected a time like 2026-01-31T12:00:00Z, got {self.created!r}"
            )
        for name, program in self.programs.items():
            buckets = program.buckets
            if not buckets or list(buckets) != sorted(set(buckets)) or buckets[0] < 1:
                raise ManifestError(
                    f"manifest.programs.{name}.buckets: expected ascending sizes ≥ 1, "
                    f"got {list(buckets)}"
                )
        for path, entry in self.files.items():
            check_path(path)
            if entry.size_bytes < 0 or not _SHA256.fullmatch(entry.sha256):
                raise ManifestError(
                    f"manifest.files.{path}: expected a size ≥ 0 and 64 lower-case hex digits"
                )
            for folder in _folders(path):
                if folder in self.files:
                    raise ManifestError(f"manifest.files: {folder!r} is both a file and a folder")

    def to_json(self) -> bytes:
        """The manifest as UTF-8 JSON, keys sorted, the same bytes for the same manifest.

        Raises:
            ManifestError: a number that is not finite, or text that UTF-8 cannot hold.
        """
        document: dict[str, object] = {
            "schema": SCHEMA if self.encryption else SCHEMA - 1,
            "name": self.name,
            "created": self.created,
            "producer": dict(self.producer),
            "metadata": dict(self.metadata),
            "programs": {name: program_out(value) for name, value in self.programs.items()},
            "targets": {
                name: {
                    "platform": value.platform,
                    "arch": value.arch,
                    "jaxlib": value.jaxlib,
                    "cpu_features": list(value.cpu_features),
                }
                for name, value in self.targets.items()
            },
            "files": {
                path: {"size_bytes": entry.size_bytes, "sha256": entry.sha256}
                for path, entry in self.files.items()
            },
            "encodings": {name: value.document() for name, value in self.encodings.items()},
            "compression": self.compression and self.compression.document(),
        }
        if self.encryption:
            document["encryption"] = self.encryption.document()
        try:
            text = json.dumps(
                document, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False
            )
            return text.encode() + b"\n"
        except ValueError as error:  # a NaN or infinity, or text that UTF-8 cannot hold
            raise ManifestError(f"{MANIFEST} cannot be written: {error}") from error

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Read a manifest.

        Raises:
            ManifestError: not JSON, another schema, a field missing, unknown or of the wrong type.
        """
        try:
            document = read.decode(data)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{MANIFEST} is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise ManifestError(f"{MANIFEST}: expected an object, got {read.kind_of(document)}")
        schema = document.pop("schema", None)
        if type(schema) is not int:
            raise ManifestError(f"manifest.schema: expected a whole number, got {schema!r}")
        if schema not in _MANIFEST_IN:
            remedy = (
                "pip install --upgrade maas-sdk"
                if schema > SCHEMA
                else "export the model again with this version"
            )
            raise ManifestError(
                f"{MANIFEST} is of schema {schema}, this maas-sdk reads schemas 1 to {SCHEMA}: "
                f"{remedy}",
                schema=schema,
            )
        manifest: Manifest = _MANIFEST_IN[schema](document, "manifest")
        return manifest


_FILE_IN = read.record(FileEntry, {"size_bytes": read.exactly(int), "sha256": read.string})
_TARGET_IN = read.record(
    Target,
    {
        "platform": read.string,
        "arch": read.string,
        "jaxlib": read.string,
        "cpu_features": read.list_of(read.string),
    },
)


def _read_encodings(value: Any, path: str) -> Any:
    # Here, as below: a plain bundle is opened without what reads a compressed one.
    if value == {}:
        return {}
    from maas_sdk.bundle.encoding.spec import read_encoding

    return read.map_of(read_encoding)(value, path)


def _read_compression(value: Any, path: str) -> Any:
    from maas_sdk.bundle.compression import read_compression

    return read_compression(value, path)


def _read_encryption(value: Any, path: str) -> Any:
    from maas_sdk.bundle.crypto.encryption import read_encryption

    return read_encryption(value, path)


_FIELDS_1 = {
    "name": read.string,
    "created": read.string,
    "producer": read.map_of(read.string),
    "metadata": read.map_of(read.string),
    "programs": read.map_of(read_program),
    "targets": read.map_of(_TARGET_IN),
    "files": read.map_of(_FILE_IN),
}
_FIELDS_2 = {
    **_FIELDS_1,
    "encodings": _read_encodings,
    "compression": read.or_null(_read_compression),
}
# By schema.
_MANIFEST_IN: Final = {
    1: read.record(Manifest, _FIELDS_1),
    2: read.record(Manifest, _FIELDS_2),
    SCHEMA: read.record(Manifest, {**_FIELDS_2, "encryption": _read_encryption}),
}


def is_name(text: str) -> bool:
    """Return True when a text may name a model, a program or a target."""
    return _NAME.fullmatch(text) is not None


def _check_names(where: str, names: Any) -> None:
    for name in names:
        if not is_name(name):
            raise ManifestError(
                f"manifest.{where}: {name!r} is not a name: expected letters, digits, '.', '_' "
                "and '-', starting with a letter or digit, at most 128 characters"
            )


def _folders(path: str) -> list[str]:
    """The folders above a file: a/b/c → a, a/b."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def check_path(path: str) -> None:
    """Refuse, with ``ManifestError``, a text that is no path of a file inside a bundle."""
    parts = path.split("/")
    if (
        any(part in ("", ".", "..") for part in parts)
        or "\\" in path
        or ":" in path
        or "\0" in path
        or path in (MANIFEST, SIGNATURE)
    ):
        raise ManifestError(f"manifest.files: {path!r} is not a path inside the bundle")
