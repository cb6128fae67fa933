"""Fingerprint of a batch prediction: its input, bundle and options.

The rule it keeps: answers are put beside others only if they come from the same rows, the same
weights and programs, and the same options. A file is taken for the same if it has the same size and
time of change; a bundle if it has the same manifest, which holds the hash of every file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maas_sdk.tables.images import listed

__all__ = ["differences", "fingerprint", "identity"]


def identity(path: Path) -> dict[str, object]:
    """Return the size and modification time of an input, of a folder those of its images.

    Its name does not count: a file that was moved is the same.
    """
    if path.is_dir():
        names = listed(path)
        found = [(name, *_stamp(path / name)) for name in names]
        return {"images": len(names), "sha256": _sha256(found)}
    size, changed = _stamp(path)
    return {"size_bytes": size, "changed_unix_ns": changed}


def fingerprint(document: Mapping[str, Any]) -> str:
    """Return a document's hash as 64 hex digits, the same for the same values."""
    return _sha256(document)


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """List where two documents differ: ``options.format: parquet there, npz here``."""
    if isinstance(old, dict) and isinstance(new, dict):
        inside = [
            differences(old.get(name), new.get(name), f"{where}.{name}".lstrip("."))
            for name in sorted({*old, *new})
        ]
        return [line for lines in inside for line in lines]
    return [] if old == new else [f"{where}: {old} there, {new} here"]


def _stamp(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except FileNotFoundError:
        # A link in a folder that leads nowhere: its row is a bad one, and the others are not.
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
