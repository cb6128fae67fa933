"""Import of objects named on a command line, such as ``my_model:model``."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from pathlib import Path
from typing import Any

from maas_sdk.errors import ConfigError, DependencyError, MaasError, ModelError

__all__ = ["load_object", "make_object"]


def load_object(spec: str) -> Any:
    """Return the object that ``module:object`` or ``path/to/file.py:object`` names.

    Raises:
        ConfigError: not of this form, no such module, or no such object in it.
        DependencyError: the module imports a package that is not installed.
        ModelError: the module raised while it was imported.
    """
    place, colon, path = spec.rpartition(":")
    if not colon or not place or not path:
        raise ConfigError(
            f"{spec!r}: expected MODULE:OBJECT, such as my_model:model or my_model.py:model"
        )
    file = Path(place) if place.endswith(".py") else None
    if file is not None and not file.is_file():
        raise ConfigError(f"{spec}: no file {place} in {Path.cwd()}")
    folder, module_name = (str(file.parent.resolve()), file.stem) if file else (os.getcwd(), place)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (
            module_name == error.name or module_name.startswith(f"{error.name}.")
        ):
            raise DependencyError(
                f"{spec}: {module_name} imports {error.name}, which is not installed"
            ) from error
        raise ConfigError(
            f"{spec}: no module {module_name} in {folder} or the environment"
        ) from error
    except Exception as error:
        raise ModelError(
            f"{spec}: {module_name} raised {type(error).__name__} while it was imported: {error}"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            known = ", ".join(sorted(n for n in vars(found) if not n.startswith("_"))[:20])
            raise ConfigError(f"{spec}: no {part!r} in {place}; it has {known}")
        found = getattr(found, part)
    return found


def make_object(spec: str) -> Any:
    """Call a class or a function without required arguments; return any other object as it is.

    Raises:
        ConfigError, DependencyError: as ``load_object``.
        ModelError: the module or the function raised.
    """
    found = load_object(spec)
    if not inspect.isfunction(found):
        return found
    needed = [
        p
        for p in inspect.signature(found).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if needed:
        return found
    try:
        return found()
    except MaasError:
        raise
    except Exception as error:
        raise ModelError(f"{spec} raised {type(error).__name__}: {error}") from error
