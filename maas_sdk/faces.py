"""Names of a package that are imported when they are asked for.

A face lists what a user needs. Where importing all of it would cost a service its start, or bring a
package that only one name needs, the face has its imports for types alone and this at its end:

    if not TYPE_CHECKING:
        __getattr__ = lazy_names(__name__, {"open_store": "opening"})

Type checkers do not see it: with a ``__getattr__`` they would take any name at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, files: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package (PEP 562).

    Args:
        package: its ``__name__``.
        files: a name → the module inside the package that has it. No name may be that of a module
            of the package: Python would give the module, once that is imported.
    """

    def find(name: str) -> Any:
        if name not in files:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}", name=name, obj=None
            )
        return getattr(import_module(f"{package}.{files[name]}"), name)

    return find
