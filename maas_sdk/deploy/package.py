"""A bundle → a function's folder, the deployable unit.

    out/
      main.py             binds ``predict``, or ``batch``; the user's to edit
      requirements.txt    exact versions and hashes; jaxlib is the one that compiled the executables
      model.maas/         the bundle, every hash checked while it was copied; absent where the
                          function fetches it from a store at start
      maas_sdk/           the part of this package that serves, so no index has to have it
      **/__pycache__/     bytecode, so that a cold start compiles nothing

It runs as it is, here and in the cloud:
``functions-framework --source out/main.py --target predict``. What answers objects that arrive in a
bucket is the same with ``batch`` for ``predict``, and with the readers of files for the server.

The rule: the same bundle, options and release give the same bytes, from whatever process, so that a
deployment tool sees a change only where there is one. Our package goes in as a folder and not as a
wheel for its bytecode: an installer would compile a wheel again, with times in it, and all of it,
where this is the serving part alone.

Bytecode is of the packaging interpreter's version (another one passes it over and compiles anew)
and is validated by hash, never by time: uploads change times. It is written by a process of its
own, for what marshal writes depends on what a process has loaded and on its hash seed. For the
installed requirements the same is up to who installs them: Google's Python builder compiles them; a
Dockerfile should say ``python -m compileall`` after ``pip install``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from maas_sdk.bundle.files.staging import Staging
from maas_sdk.bundle.folder import copy_bundle, open_bundle
from maas_sdk.deploy.requirements import requirements
from maas_sdk.errors import BundleError, ConfigError

__all__ = [
    "BUNDLE",
    "FUNCTIONS",
    "SERVING",
    "Function",
    "compile_bytecode",
    "copy_sources",
    "main_source",
    "package",
]

# Where main.py looks for the bundle, beside itself.
BUNDLE: Final = "model.maas"

# By the table of the house: ground, formats, runtime; and, for serving, the service.
_RUNTIME: Final = (
    "__init__.py",
    "errors.py",
    "faces.py",
    "tensors.py",
    "bundle",
    "store",
    "wire",
    "runtime",
)
SERVING: Final = (*_RUNTIME, "serve")


class Function(NamedTuple):
    """A kind of function that a bundle can be packaged as."""

    # Of the template of its main.py.
    template: str
    # Parts of this package that it imports.
    parts: tuple[str, ...]
    # Names of locks that it needs in any case.
    extras: tuple[str, ...] = ()


# By the name that main.py binds, which is the platform's entry point.
FUNCTIONS: Final[Mapping[str, Function]] = {
    "predict": Function("main", SERVING),
    "batch": Function("batch", (*_RUNTIME, "tables", "batch"), ("data", "gcp")),
}

# The package that runs is the one that is copied, installed or in a checkout.
_PACKAGE: Final = Path(__file__).resolve().parents[1]
# A store's URL, a model, and its version or label; nothing that would end a Python string.
_REFERENCE: Final = re.compile(r"\w+://[^\s\"\\@]*/[\w.-]+@[\w.-]+")
_INSIDE: Final = f'_HERE / "{BUNDLE}"'

# PEP 552. main.py may be edited by its user, so its source is hashed again at each start; nobody
# edits the rest, so there the source is not even read.
_COMPILE: Final = """
import compileall, sys
from py_compile import PycInvalidationMode as Mode
root, *sources = sys.argv[1:]
for path in sources:
    done = compileall.compile_dir(
        f"{root}/{path}", quiet=1, force=True, stripdir=root, invalidation_mode=Mode.UNCHECKED_HASH
    ) if not path.endswith(".py") else compileall.compile_file(
        f"{root}/{path}", quiet=1, force=True, stripdir=root, invalidation_mode=Mode.CHECKED_HASH
    )
    if not done:
        sys.exit(f"{path} does not compile")
"""


def package(
    bundle_path: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    function: str = "predict",
    overwrite: bool = False,
    bundle_from: str | None = None,
    extras: Iterable[str] = (),
    accept: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Write the function's folder for a bundle; it appears whole or not at all.

    Args:
        bundle_path: the bundle's folder.
        out_dir: the folder to write; its parent exists.
        function: a key of ``FUNCTIONS``: "predict" answers calls, "batch" objects that arrive in a
            bucket.
        overwrite: replace ``out_dir`` if it is there.
        bundle_from: where the function fetches the bundle at start, ``<store>/<model>@<version>``;
            None: the bundle lies in the folder.
        extras: names of further locks, of ``requirements.LOCKS``.
        accept: is given the folder when all is in it, before it appears at ``out_dir``; what it
            raises leaves nothing behind.

    Returns:
        The folder.

    Raises:
        ConfigError: no such function; ``out_dir`` is there and ``overwrite`` is off; the bundle's
            executables were compiled by several versions of jaxlib; ``bundle_from`` names no
            version.
        BundleError: the bundle cannot be used; ``CorruptError`` names the file.
    """
    source = main_source(bundle_from, function=function)
    kind = FUNCTIONS[function]
    bundle = open_bundle(bundle_path)
    wanted = {*extras, *kind.extras, *({"gcp"} if (bundle_from or "").startswith("gs://") else ())}
    # Checked where keys are trusted.
    wanted |= {"seal"} if bundle.signature is not None else set()
    listed = requirements(bundle.manifest, wanted)
    with Staging(out_dir, overwrite=overwrite) as staging:
        root = staging.path
        if bundle_from is None:
            copy_bundle(bundle, root / BUNDLE)
        else:
            bundle.check()  # what is not copied is checked all the same: it was just published
        copy_sources(root / "maas_sdk", kind.parts)
        (root / "main.py").write_text(source, encoding="utf-8")
        (root / "requirements.txt").write_text(listed.text, encoding="utf-8")
        compile_bytecode(root, "main.py", "maas_sdk")
        accept(root)
        staging.commit()
    return staging.target


def main_source(bundle_from: str | None = None, *, function: str = "predict") -> str:
    """Return the source of a function's ``main.py``.

    Args:
        function: a key of ``FUNCTIONS``.
        bundle_from: ``<store>/<model>@<version>`` to serve; None: the bundle beside the file.

    Raises:
        ConfigError: no such function; or it names no model and version: what a deployment serves
            has to be said, or two instances of it would answer differently.
    """
    if function not in FUNCTIONS:
        raise ConfigError(f"no function {function!r}: expected one of {', '.join(FUNCTIONS)}")
    template = f"{FUNCTIONS[function].template}.py.txt"
    source = (Path(__file__).parent / "templates" / template).read_text(encoding="utf-8")
    if bundle_from is None:
        return source
    if not _REFERENCE.fullmatch(bundle_from):
        raise ConfigError(
            f"{bundle_from!r}: expected <store>/<model>@<version>, such as "
            "gs://my-models/store/digits@3"
        )
    return source.replace(_INSIDE, f'"{bundle_from}"')


def copy_sources(target: Path, parts: Iterable[str]) -> None:
    """Copy parts of this package, folders with all below, into a new folder."""
    target.mkdir()
    for name in parts:
        source = _PACKAGE / name
        for file in [source] if source.is_file() else sorted(source.rglob("*")):
            # Bytecode here is checked by time and of whatever interpreter ran it: it is compiled
            # anew.
            if file.is_dir() or file.suffix == ".pyc":
                continue
            copy = target / file.relative_to(_PACKAGE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            # The content without the mode, which differs from checkout to checkout.
            shutil.copyfile(file, copy)


def compile_bytecode(root: Path, *sources: str) -> None:
    """Write bytecode with file names relative to the folder, which will be moved.

    Args:
        root: the folder.
        sources: in it: files, whose source is looked at in each start, and folders.

    Raises:
        BundleError: a file does not compile.
    """
    done = subprocess.run(
        # No site: what an environment hangs into the interpreter's start would be loaded.
        [sys.executable, "-S", "-s", "-c", _COMPILE, str(root), *sources],
        # The seed alone: marshal's bytes must not depend on what else this environment sets.
        env={"PYTHONHASHSEED": "0"},
        cwd=root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BundleError(f"no bytecode for {root.name}: {done.stdout}{done.stderr}".strip())
