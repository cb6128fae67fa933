"""Bundles packed into one zip file for transport, and unpacked again.

The rule on the way in: the manifest is read first, and the zip may hold exactly the files that it
lists, with the sizes that it declares, under paths inside the bundle. Bytes are counted and hashed
as they come out, so a zip that would unpack to more than it declares is stopped at that byte.

``zipfile`` is imported where it is used: a server that starts from a folder never needs it.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from maas_sdk.bundle.files.staging import Staging, disk_errors
from maas_sdk.bundle.folder import (
    MAX_MANIFEST_BYTES,
    MAX_SIGNATURE_BYTES,
    Bundle,
    TrustedKeys,
    copy_checked,
    open_bundle,
    signed_by,
)
from maas_sdk.bundle.manifest import MANIFEST, SIGNATURE, Manifest
from maas_sdk.errors import BundleError, CorruptError, MaasError, NotFoundError

if TYPE_CHECKING:
    from zipfile import ZipFile, ZipInfo

__all__ = ["unzip_bundle", "write_zip", "zip_bundle"]

_REMEDY: Final = "zip or copy the bundle again"
_CHUNK_BYTES: Final = 2**20
# The same bundle gives the same zip, whenever it is made; 1980 is where zip's time begins.
_TIME: Final = (1980, 1, 1, 0, 0, 0)


def zip_bundle(folder: str | os.PathLike[str], zip_path: str | os.PathLike[str]) -> Path:
    """Check a bundle and write it as a zip file, beside its target first and then renamed.

    Weights are stored as they are, for they hardly shrink; everything else is deflated.

    Returns:
        The zip file's path. A file of that name is replaced.

    Raises:
        BundleError: the bundle is corrupt.
        StorageError: the disk is full.
    """
    bundle, target = open_bundle(folder), Path(zip_path)
    bundle.check()
    signature = [] if bundle.signature is None else [SIGNATURE]
    names = [MANIFEST, *signature, *sorted(bundle.manifest.files)]
    return write_zip({name: bundle.path / name for name in names}, target)


def write_zip(files: Mapping[str, Path], target: Path) -> Path:
    """Write files as one zip, in their order; the same files give the same bytes.

    Args:
        files: name in the zip → the file.
        target: replaced if it is there, and never seen half written.

    Raises:
        StorageError: the disk is full.
    """
    from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

    temporary = target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    with disk_errors(target):
        try:
            with ZipFile(temporary, "x") as archive:
                for name, path in files.items():
                    info = ZipInfo(name, _TIME)
                    info.external_attr = 0o644 << 16
                    stored = name.endswith(".safetensors")
                    info.compress_type = ZIP_STORED if stored else ZIP_DEFLATED
                    info.file_size = path.stat().st_size
                    with path.open("rb") as file, archive.open(info, "w") as out:
                        while chunk := file.read(_CHUNK_BYTES):
                            out.write(chunk)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return target


def unzip_bundle(
    zip_path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    trusted_keys: TrustedKeys = None,
) -> Bundle:
    """Unpack a zipped bundle, checking every byte, into a folder that appears whole or not at all.

    Args:
        zip_path: the zip file.
        folder: the folder to make.
        overwrite: replace the folder if it is there.
        trusted_keys: whose signature it must have, as for ``open_bundle``.

    Raises:
        NotFoundError: no file at ``zip_path``.
        CorruptError: not a whole zip file, or not exactly what its manifest lists.
        ManifestError: its manifest breaks the schema.
        SealError: a signature was asked for, and none of a trusted key is there.
        ConfigError: the folder exists and ``overwrite`` is off.
        StorageError: the disk is full.
    """
    import zlib
    from zipfile import BadZipFile, ZipFile

    where = os.path.basename(zip_path)
    try:
        with ZipFile(zip_path) as archive:
            return _unpack(archive, where, folder, overwrite, trusted_keys)
    except FileNotFoundError as error:
        raise NotFoundError(f"no zip file at {os.fspath(zip_path)}: check the path") from error
    except MaasError:
        raise
    except (BadZipFile, EOFError, OSError, RuntimeError, ValueError, zlib.error) as error:
        # zipfile says RuntimeError of an encrypted entry, ValueError or EINVAL of offsets and
        # names that make no sense.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise CorruptError(f"{where} is not a whole zip file: {error}; {_REMEDY}") from error


def _unpack(
    archive: ZipFile,
    where: str,
    folder: str | os.PathLike[str],
    overwrite: bool,
    trusted_keys: TrustedKeys,
) -> Bundle:
    entries = _entries(archive, where)
    if MANIFEST not in entries:
        raise BundleError(f"{where} is no zipped bundle: it has no {MANIFEST} at its top")
    data = _read_small(archive, entries[MANIFEST], MAX_MANIFEST_BYTES, where)
    signature = (
        _read_small(archive, entries[SIGNATURE], MAX_SIGNATURE_BYTES, where)
        if SIGNATURE in entries
        else None
    )
    signer = signed_by(data, signature, trusted_keys, where)
    manifest = Manifest.from_json(data)
    expected = manifest.files.keys() | {MANIFEST} | ({SIGNATURE} & entries.keys())
    if entries.keys() != expected:
        raise CorruptError(
            f"{where}: missing {sorted(expected - entries.keys())}, unlisted "
            f"{sorted(entries.keys() - expected)}: expected exactly the files of its manifest; "
            f"{_REMEDY}"
        )
    for name, entry in manifest.files.items():
        if entries[name].file_size != entry.size_bytes:
            raise CorruptError(
                f"{where}: {name}: expected {entry.size_bytes} bytes, found "
                f"{entries[name].file_size} declared; {_REMEDY}",
                file=name,
            )
    with Staging(folder, overwrite=overwrite) as staging:
        for name, entry in manifest.files.items():
            with archive.open(entries[name]) as source:
                copy_checked(source, staging.path / name, name, entry)
        (staging.path / MANIFEST).write_bytes(data)
        if signature is not None:
            (staging.path / SIGNATURE).write_bytes(signature)
        staging.commit()
    return Bundle(
        staging.target, manifest, manifest_bytes=data, signature=signature, signed_by=signer
    )


def _entries(archive: ZipFile, where: str) -> dict[str, ZipInfo]:
    """Return the entries by name, without the folder entries that other tools add."""
    from zipfile import ZIP_DEFLATED, ZIP_STORED

    entries: dict[str, ZipInfo] = {}
    for info in archive.infolist():
        if info.is_dir():
            continue
        # ``orig_filename`` is the name before zipfile made it agreeable.
        if info.orig_filename in entries:
            raise CorruptError(f"{where}: {info.orig_filename!r} is in it twice; {_REMEDY}")
        if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise CorruptError(
                f"{where}: {info.orig_filename}: expected stored or deflated, found compression "
                f"{info.compress_type}; {_REMEDY}"
            )
        entries[info.orig_filename] = info
    return entries


def _read_small(archive: ZipFile, info: ZipInfo, limit: int, where: str) -> bytes:
    with archive.open(info) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise CorruptError(f"{where}: {info.filename} is over {limit} bytes; {_REMEDY}")
    return data
