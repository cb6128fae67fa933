"""A bundle → a function's folder, which is the deployable unit.

    out/
      main.py             binds ``predict``; the user's to edit
      requirements.txt    exact versions; jaxlib is the one that compiled the executables
      model.maas/         the bundle, every hash checked while it was copied
      maas_sdk/           the part of this package that serves, so no index has to have it
      **/__pycache__/     bytecode, so that a cold start compiles nothing

It runs as it is, here and in the cloud:
``functions-framework --source out/main.py --target predict``.

Bytecode is of the packaging interpreter's version (another one passes it over and compiles anew)
and is validated by hash, never by time: uploads change times. For the installed requirements the
same is up to who installs them: Google's Python builder compiles them; a Dockerfile should say
``python -m compileall`` after ``pip install``.
"""

from __future__ import annotations

import compileall
import os
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Final

from maas_sdk.bundle.folder import copy_bundle, open_bundle
from maas_sdk.bundle.manifest import Manifest
from maas_sdk.bundle.staging import Staging
from maas_sdk.errors import ConfigError

__all__ = ["BUNDLE", "main_source", "package", "requirements"]

# Where main.py looks for the bundle, beside itself.
BUNDLE: Final = "model.maas"

_PACKAGE: Final = Path(__file__).resolve().parents[1]
# What serving imports, by the table of the house: ground, formats, service.
_SERVING: Final = ("__init__.py", "errors.py", "tensors.py", "bundle", "wire", "runtime", "serve")

# What serving needs, with the oldest version where none is installed here to take the number from.
_REQUIREMENTS: Final[Mapping[str, str]] = {
    "functions-framework": "3.9",
    "jaxlib": "0.10.2",
    "ml_dtypes": "0.5",
    "msgpack": "1.0.8",
    "numpy": "2.0",
    "scipy": "1.13",
}


def package(
    bundle_path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> Path:
    """Write the function's folder for a bundle; it appears whole or not at all.

    Args:
        bundle_path: the bundle's folder.
        out_dir: the folder to write; its parent exists.
        overwrite: replace ``out_dir`` if it is there.

    Returns:
        The folder.

    Raises:
        ConfigError: ``out_dir`` is there and ``overwrite`` is off; or the bundle's executables were
            compiled by several versions of jaxlib.
        BundleError: the bundle cannot be used; ``CorruptError`` names the file.
    """
    bundle = open_bundle(bundle_path)
    listed = requirements(bundle.manifest)
    with Staging(out_dir, overwrite=overwrite) as staging:
        root = staging.path
        copy_bundle(bundle, root / BUNDLE)
        _copy_serving(root / "maas_sdk")
        (root / "main.py").write_text(main_source())
        (root / "requirements.txt").write_text(listed)
        _compile(root)
        staging.commit()
    return staging.target


def main_source() -> str:
    """The source of a function's ``main.py``."""
    return (Path(__file__).parent / "templates" / "main.py.txt").read_text()


def requirements(manifest: Manifest) -> str:
    """The ``requirements.txt`` of a function that serves a bundle.

    Raises:
        ConfigError: its executables were compiled by several versions of jaxlib.
    """
    compiled_by = sorted({target.jaxlib.partition("+")[0] for target in manifest.targets.values()})
    if len(compiled_by) > 1:
        raise ConfigError(
            f"the executables of {manifest.name} were compiled by jaxlib {', '.join(compiled_by)}; "
            "a function has one jaxlib: export all targets with the same",
            jaxlib=compiled_by,
        )
    lines = [
        f"# For {manifest.name}, Python {sys.version_info[0]}.{sys.version_info[1]}. maas_sdk lies",
        "# beside this file. Install with bytecode, or every cold start compiles it again:",
        "# pip does so by itself; with uv say --compile-bytecode.",
    ]
    for name, oldest in _REQUIREMENTS.items():
        found = compiled_by[0] if name == "jaxlib" and compiled_by else _installed(name)
        lines.append(f"{name}=={found}" if found else f"{name}>={oldest}")
    return "\n".join(lines) + "\n"


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _copy_serving(target: Path) -> None:
    target.mkdir()
    for name in _SERVING:
        source = _PACKAGE / name
        for file in [source] if source.is_file() else sorted(source.rglob("*.py")):
            copy = target / file.relative_to(_PACKAGE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def _compile(root: Path) -> None:
    """Write bytecode, with file names relative to the folder: it will lie elsewhere."""
    modes = {
        # The user may edit it, so its source is hashed again at each start.
        root / "main.py": PycInvalidationMode.CHECKED_HASH,
        # Nobody edits it, so its source is not even read.
        root / "maas_sdk": PycInvalidationMode.UNCHECKED_HASH,
    }
    for path, mode in modes.items():
        compile_one = compileall.compile_dir if path.is_dir() else compileall.compile_file
        compile_one(path, quiet=1, force=True, stripdir=str(root), invalidation_mode=mode)
