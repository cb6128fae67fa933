"""A bundle as a folder that Cloud Functions runs as it is.

    digits-function/
      main.py             functions/predict/main.py, unchanged
      requirements.txt    exact versions of what the serving part imports
      maas_sdk/           the serving part of this package, with its bytecode
      model.maas/         the bundle

The rule: what is in the folder depends on the bundle and on this installation alone, and it appears
whole or not at all. Bytecode is checked against no clock, so that it still counts after an upload
that has set every file's time anew.
"""

from __future__ import annotations

import compileall
import py_compile
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Final

import maas_sdk
from maas_sdk.bundle import open_bundle
from maas_sdk.bundle.staging import Staging, disk_errors
from maas_sdk.errors import ConfigError

__all__ = ["MODEL", "FunctionFolder", "package"]

# Where main.py looks for the bundle.
MODEL: Final = "model.maas"

# The serving part of the package: ground, formats and service.
_SERVING: Final = ("__init__.py", "errors.py", "tensors.py", "bundle", "wire", "runtime", "serve")

# What it imports, and functions-framework itself.
_REQUIREMENTS: Final = ("functions-framework", "jaxlib", "ml_dtypes", "msgpack", "numpy", "scipy")

# The same folder gives the same zip; 1980 is where zip's time begins.
_TIME: Final = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionFolder:
    """What was written."""

    # The folder, or the zip of it.
    path: Path
    files: int
    # Of all files, before a zip packs them.
    nbytes: int


def package(bundle: Path, out: Path, *, overwrite: bool = False) -> FunctionFolder:
    """Write a function folder, or a zip of one where ``out`` ends in .zip.

    Args:
        bundle: the bundle's folder; every hash in it is checked first.
        out: what to write.
        overwrite: replace what is there.

    Raises:
        BundleError: the bundle is corrupt, or the disk is full.
        ConfigError: something is at ``out`` already, or a needed package is not installed.
    """
    opened = open_bundle(bundle)
    opened.check()
    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists: choose another path, or replace it with --overwrite")
    if out.suffix != ".zip":
        with disk_errors(out), Staging(out, overwrite=overwrite) as staging:
            _fill(staging.path, opened.path)
            written = _measure(out, staging.path)
            staging.commit()
        return written
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        disk_errors(out),
        tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch,
    ):
        folder, temporary = Path(scratch) / "function", Path(scratch) / out.name
        folder.mkdir()
        _fill(folder, opened.path)
        _zip(folder, temporary)
        temporary.replace(out)
        return _measure(out, folder)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _measure(out: Path, folder: Path) -> FunctionFolder:
    found = _files(folder)
    return FunctionFolder(
        path=out, files=len(found), nbytes=sum(path.stat().st_size for path in found)
    )


def _fill(folder: Path, bundle: Path) -> None:
    main = files("maas_sdk.deploy").joinpath("predict_main.txt").read_bytes()
    (folder / "main.py").write_bytes(main)
    (folder / "requirements.txt").write_text(_requirements(), encoding="utf-8")
    source, target = Path(maas_sdk.__file__).parent, folder / "maas_sdk"
    target.mkdir()
    for name in _SERVING:
        if (source / name).is_dir():
            shutil.copytree(
                source / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
            )
        else:
            shutil.copyfile(source / name, target / name)
    shutil.copytree(bundle, folder / MODEL)
    compileall.compile_dir(
        folder,
        quiet=2,
        # No file of the machine that packages is named in tracebacks of the one that serves.
        stripdir=str(folder),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def _requirements() -> str:
    """One line per package with the version that is installed here, and was compiled with."""
    lines = []
    for name in _REQUIREMENTS:
        try:
            lines.append(f"{name}=={version(name)}\n")
        except PackageNotFoundError as error:
            raise ConfigError(
                f"packaging pins the version of {name}, which is not installed: "
                "pip install 'maas-sdk[serve]'"
            ) from error
    return "".join(lines)


def _zip(folder: Path, target: Path) -> None:
    from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

    with ZipFile(target, "x") as archive:
        for path in _files(folder):
            info = ZipInfo(path.relative_to(folder).as_posix(), _TIME)
            info.external_attr = 0o644 << 16
            stored = path.suffix == ".safetensors"
            info.compress_type = ZIP_STORED if stored else ZIP_DEFLATED
            info.file_size = path.stat().st_size
            with path.open("rb") as file, archive.open(info, "w") as entry:
                shutil.copyfileobj(file, entry, 1 << 20)
