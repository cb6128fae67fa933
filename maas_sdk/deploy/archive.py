"""A function's folder as the one zip file that clouds accept for an upload.

The rule: the same folder gives the same bytes, whenever it is zipped, so that a deployment tool
sees a change only where there is one; and the file appears whole or not at all.
"""

from __future__ import annotations

from pathlib import Path

from maas_sdk.bundle.archive import write_zip
from maas_sdk.errors import ConfigError

__all__ = ["zip_folder"]


def zip_folder(folder: Path, target: Path, *, overwrite: bool = False) -> Path:
    """Zip all files under a folder, which becomes the root of the zip.

    Args:
        folder: what to zip.
        target: the file to write.
        overwrite: replace ``target`` if it is there.

    Returns:
        ``target``.

    Raises:
        ConfigError: ``target`` is there already.
        StorageError: the disk is full.
    """
    if target.exists() and not overwrite:
        raise ConfigError(f"{target} exists already: choose another path, or pass overwrite=True")
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return write_zip({path.relative_to(folder).as_posix(): path for path in found}, target)
