"""Pinned requirements of a function or a container, each file with its hash.

The locks lie in this package, written by ``make lock``: one for what every function needs, one for
each part that only some need. Their versions are those of requirements.lock, which all tests run
with. ``requirements`` joins the ones that a bundle needs.

The rule: either every line has hashes or none has, since pip then asks for all. None has where the
bundle's executables were compiled by another jaxlib than the locked one: an executable runs on the
build that compiled it, and its hashes are not known here. The text says so in its first lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from maas_sdk.bundle.manifest import Manifest
from maas_sdk.errors import ConfigError

__all__ = [
    "LOCKS",
    "Requirement",
    "Requirements",
    "join",
    "needs",
    "parse_lock",
    "read_lock",
    "requirements",
]

_FOLDER: Final = Path(__file__).parent / "locks"

# Name of a lock → what it is for. "serve" is in every deployment.
LOCKS: Final = {
    "serve": "the runtime: jaxlib and its numpy and scipy, msgpack, functions-framework",
    "cli": "the command `maas serve` of a container: typer, rich, uvicorn",
    "gcp": "a bundle that is fetched from gs:// at start",
    "data": "parquet files and pictures that a batch function reads and writes",
    "seal": "a bundle that is signed or encrypted",
    "zstd": "a bundle with tensors compressed by zstd",
    "cuda": "NVIDIA GPUs: the CUDA plugin and NVIDIA's libraries",
    "tpu": "TPUs: libtpu",
}

_ENTRY: Final = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9-]*)==(?P<version>[^\s;\\]+)(?: ; (?P<marker>[^\\\n]+?))?"
    r"(?P<hashes>(?: \\\n {4}--hash=sha256:[0-9a-f]{64})+)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirement:
    """One line of a lock.

    Attributes:
        name: of the distribution, normalised: lower case, dashes.
        version: the only one that is taken.
        marker: where it is needed, as PEP 508 has it; empty for everywhere.
        hashes: sha256 of every file of that version, sorted.
    """

    name: str
    version: str
    marker: str = ""
    hashes: tuple[str, ...] = ()

    def line(self, *, hashed: bool) -> str:
        """Requirement as pip reads it."""
        text = f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")
        if not hashed:
            return text
        return " \\\n    ".join([text, *(f"--hash=sha256:{digest}" for digest in self.hashes)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirements:
    """A ``requirements.txt``.

    Attributes:
        text: of the file.
        hashed: whether every line has hashes.
        why: a sentence about the missing hashes, or about how the file is to be installed.
    """

    text: str
    hashed: bool
    why: str


def requirements(manifest: Manifest, extras: Iterable[str] = ()) -> Requirements:
    """Return the requirements of a bundle's deployment.

    Args:
        manifest: of the bundle; its jaxlib decides, and what its tensors are compressed with.
        extras: names of further locks.

    Raises:
        ConfigError: its executables were compiled by several versions of jaxlib, or a lock's name
            is none.
    """
    # The local label of a build (after the +) is in no index.
    compiled_by = sorted({target.jaxlib.partition("+")[0] for target in manifest.targets.values()})
    if len(compiled_by) > 1:
        raise ConfigError(
            f"the executables of {manifest.name} were compiled by jaxlib {', '.join(compiled_by)}; "
            "a function has one jaxlib: export all targets with the same",
            jaxlib=compiled_by,
        )
    names = ["serve", *sorted({*needs(manifest), *extras} - {"serve"})]
    found = join(read_lock(name) for name in names)
    [locked] = [entry.version for entry in found if entry.name == "jaxlib"]
    wanted = compiled_by[0] if compiled_by else locked
    hashed = wanted == locked
    if hashed:
        why = "every file is known by its hash"
    else:
        why = (
            f"no hashes: the bundle was compiled by jaxlib {wanted}, whose files are not in the "
            f"lock of this release (jaxlib {locked}); versions alone are pinned. Export again "
            f"with jaxlib {locked} to have hashes"
        )
        found = [
            Requirement(name=r.name, version=wanted, marker=r.marker) if r.name == "jaxlib" else r
            for r in found
        ]
    comments = [
        f"# For {manifest.name}; maas_sdk itself lies beside this file.",
        *(f"# {name}: {LOCKS[name]}" for name in names),
        *_wrapped(f"Hashes: {why}."),
        "# Install with bytecode, or every cold start compiles it again: pip does so by itself;",
        "# with uv say --compile-bytecode.",
    ]
    text = "\n".join([*comments, *(entry.line(hashed=hashed) for entry in found)]) + "\n"
    return Requirements(text=text, hashed=hashed, why=why)


def needs(manifest: Manifest) -> set[str]:
    """Return names of the locks that a bundle's own content needs, beside "serve"."""
    found = {"zstd"} & {encoding.scheme for encoding in manifest.encodings.values()}
    return found | ({"seal"} if manifest.encryption is not None else set())


def read_lock(name: str) -> list[Requirement]:
    """Read one of ``LOCKS``. Raises ``ConfigError`` for another name."""
    if name not in LOCKS:
        raise ConfigError(f"no lock {name!r}: expected one of {', '.join(LOCKS)}", lock=name)
    return parse_lock((_FOLDER / f"{name}.lock").read_text(encoding="utf-8"), f"{name}.lock")


def parse_lock(text: str, where: str = "the lock") -> list[Requirement]:
    """Parse the output of ``uv pip compile --generate-hashes``.

    Raises:
        ConfigError: a line is not name, version, marker and hashes.
    """
    found, position = [], 0
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    text = "\n".join(lines)
    while position < len(text):
        # One strict form, which `make lock` writes: everything else was edited by hand or cut.
        entry = _ENTRY.match(text, position)
        if entry is None or text[entry.end() : entry.end() + 1] not in ("", "\n"):
            line = text[position:].partition("\n")[0]
            raise ConfigError(
                f"{where}: expected name==version with sha256 hashes, found {line[:100]!r}: "
                "write it anew with `make lock`"
            )
        hashes = re.findall(r"sha256:([0-9a-f]{64})", entry["hashes"])
        found.append(
            Requirement(
                name=entry["name"],
                version=entry["version"],
                marker=entry["marker"] or "",
                hashes=tuple(sorted(hashes)),
            )
        )
        position = entry.end() + 1
    return found


def join(locks: Iterable[Iterable[Requirement]]) -> list[Requirement]:
    """Join several locks, sorted by name, each requirement once.

    Where two ask for the same version under different conditions it is installed always.

    Raises:
        ConfigError: two locks ask for different versions of a distribution in the same place.
    """
    found: dict[tuple[str, str], Requirement] = {}
    for lock in locks:
        for entry in lock:
            key = entry.name, entry.version
            if key in found and found[key].marker != entry.marker:
                entry = Requirement(name=entry.name, version=entry.version, hashes=entry.hashes)
            found[key] = entry
    by_name: dict[str, list[Requirement]] = {}
    for entry in found.values():
        by_name.setdefault(entry.name, []).append(entry)
    for name, entries in by_name.items():
        markers = [entry.marker for entry in entries]
        if len(entries) > 1 and (len(set(markers)) < len(markers) or "" in markers):
            versions = ", ".join(sorted(entry.version for entry in entries))
            raise ConfigError(f"the locks ask for {name} {versions}: write them with `make lock`")
    return [found[key] for key in sorted(found)]


def _wrapped(sentence: str) -> list[str]:
    import textwrap

    return textwrap.wrap(sentence, 96, initial_indent="# ", subsequent_indent="# ")
