"""A function's folder as the one zip file that clouds take for an upload.

The rule: the same folder gives the same bytes, whenever it is zipped, so that a deployment tool
sees a change only where there is one; and the file appears whole or not at all.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import Final

from maas_sdk.bundle.staging import disk_errors
from maas_sdk.errors import ConfigError

__all__ = ["zip_folder"]

# 1980 is where zip's time begins.
_TIME: Final = (1980, 1, 1, 0, 0, 0)
_CHUNK_BYTES: Final = 2**20


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
        BundleError: the disk is full.
    """
    from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

    if target.exists() and not overwrite:
        raise ConfigError(f"{target} exists already: choose another path, or pass overwrite=True")
    temporary = target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    with disk_errors(target):
        try:
            with ZipFile(temporary, "x") as archive:
                for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                    info = ZipInfo(path.relative_to(folder).as_posix(), _TIME)
                    info.external_attr = 0o644 << 16
                    # Weights hardly shrink.
                    stored = path.suffix == ".safetensors"
                    info.compress_type = ZIP_STORED if stored else ZIP_DEFLATED
                    info.file_size = path.stat().st_size
                    with path.open("rb") as file, archive.open(info, "w") as entry:
                        shutil.copyfileobj(file, entry, _CHUNK_BYTES)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return target
