"""Size of a deployment, part by part, and the platform's limits.

Cloud Functions states 100 MB compressed and 500 MB unpacked for the first generation, and no limit
on a deployment for the second, which is what is deployed here: its source lies in a bucket and is
built into a container image (https://cloud.google.com/functions/quotas, "Max deployment size").
The rule here is to keep to the old limits for what we put into the source: a larger one is uploaded
and built again for every change of a line, and the model belongs in a store or in an image layer of
its own. What is installed beside it is not counted: the builder fetches it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from maas_sdk.bundle.manifest import WEIGHTS, Manifest
from maas_sdk.errors import ConfigError

__all__ = [
    "MAX_UNPACKED_BYTES",
    "MAX_ZIPPED_BYTES",
    "Size",
    "SizePart",
    "bundle_fits",
    "check_limits",
    "fits",
    "folder_size",
    "zip_size",
]

# The quota page counts in units of ten: 100MB, 500MB.
MAX_ZIPPED_BYTES: Final = 100 * 10**6
MAX_UNPACKED_BYTES: Final = 500 * 10**6

# Part of a deployment → how names of its files begin, the first match counts; bytecode, which lies
# everywhere, is told by its folders.
_PARTS: Final = {
    "maas_sdk": "maas_sdk/",
    "weights": "model.maas/weights.safetensors",
    "executables": "model.maas/executables/",
    "rest of the bundle": "model.maas/",
    "main.py, requirements": "",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SizePart:
    """One part of a deployment.

    Attributes:
        name: what it is.
        files: how many.
        nbytes: unpacked.
        zipped_nbytes: in the zip; None for a folder.
    """

    name: str
    files: int
    nbytes: int
    zipped_nbytes: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A deployment's parts, largest first.

    Attributes:
        parts: those that are there.
        zipped_nbytes: of the zip file, its directory included; None for a folder.
    """

    parts: tuple[SizePart, ...]
    zipped_nbytes: int | None = None

    @property
    def nbytes(self) -> int:
        """Unpacked bytes."""
        return sum(part.nbytes for part in self.parts)

    @property
    def files(self) -> int:
        """Number of files."""
        return sum(part.files for part in self.parts)


def folder_size(folder: Path) -> Size:
    """Return the size of a function's folder, or of a container's context."""
    found = {
        path.relative_to(folder).as_posix(): (path.stat().st_size, 0)
        for path in folder.rglob("*")
        if path.is_file()
    }
    return Size(parts=_parts(found, zipped=False))


def zip_size(path: Path) -> Size:
    """Return the size of a zipped function."""
    with zipfile.ZipFile(path) as archive:
        found = {i.filename: (i.file_size, i.compress_size) for i in archive.infolist()}
    return Size(parts=_parts(found, zipped=True), zipped_nbytes=path.stat().st_size)


def fits(size: Size) -> bool:
    """Return True when ``check_limits`` passes."""
    return size.nbytes <= MAX_UNPACKED_BYTES and (size.zipped_nbytes or 0) <= MAX_ZIPPED_BYTES


def bundle_fits(manifest: Manifest) -> bool:
    """Return True when a bundle may go into a function's source, before anything is copied.

    Weights hardly shrink and are stored in the zip as they are; all else is small beside them.
    """
    weights = manifest.files.get(WEIGHTS)
    total = sum(entry.size_bytes for entry in manifest.files.values())
    return total <= MAX_UNPACKED_BYTES and (
        weights is None or weights.size_bytes <= MAX_ZIPPED_BYTES
    )


def check_limits(size: Size) -> None:
    """Refuse a size that is too large for the source of a function.

    Raises:
        ConfigError: with the sizes and the two ways out.
    """
    if fits(size):
        return
    zipped = f"{size.zipped_nbytes / 1e6:,.0f} MB zipped, " if size.zipped_nbytes else ""
    largest = size.parts[0]
    raise ConfigError(
        f"the function's source has {zipped}{size.nbytes / 1e6:,.0f} MB unpacked, most of it "
        f"{largest.name} ({largest.nbytes / 1e6:,.0f} MB); expected at most "
        f"{MAX_ZIPPED_BYTES / 1e6:.0f} MB zipped and {MAX_UNPACKED_BYTES / 1e6:.0f} MB unpacked: "
        "publish the bundle in a store and let the function fetch it (--bundle-from "
        "gs://BUCKET/STORE/MODEL@VERSION), or make a container (--container)",
        nbytes=size.nbytes,
        zipped_nbytes=size.zipped_nbytes,
    )


def _parts(files: Mapping[str, tuple[int, int]], *, zipped: bool) -> tuple[SizePart, ...]:
    gathered: dict[str, list[tuple[int, int]]] = {}
    for name, sizes in files.items():
        gathered.setdefault(_part_of(name), []).append(sizes)
    parts = [
        SizePart(
            name=name,
            files=len(sizes),
            nbytes=sum(unpacked for unpacked, _ in sizes),
            zipped_nbytes=sum(packed for _, packed in sizes) if zipped else None,
        )
        for name, sizes in gathered.items()
    ]
    return tuple(sorted(parts, key=lambda part: (-part.nbytes, part.name)))


def _part_of(name: str) -> str:
    if "__pycache__/" in name:
        return "bytecode"
    return next(part for part, start in _PARTS.items() if name.startswith(start))
