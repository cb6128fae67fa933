"""Check that functions bound by nanobind still take the arguments of our calls.

jaxlib's classes and functions are private to it: a release may drop an argument and keep the
name (0.11.2 did). nanobind writes each function's signature beside it, as text. Comparing that
text with our calls, before the first one, turns a ``TypeError`` in the middle of a request into a
sentence at the start.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["arguments", "misfits"]

# "(a: x, b: y | None = \\0) -> z" → what is between the parentheses.
_SIGNATURE = re.compile(r"\((.*)\)(?: -> .*)?$", re.DOTALL)


def arguments(function: object) -> list[dict[str, bool]]:
    """Return the arguments of each overload: name → whether a call must give it.

    Empty where nanobind left no signature, as for classes. Arguments without a name of their own
    (``arg: str, /``) are left out: they are passed by position, and their number is all that
    could be compared.
    """
    overloads = []
    for signature, *_ in getattr(function, "__nb_signature__", None) or ():
        found = _SIGNATURE.search(signature)
        inside = found.group(1) if found else ""
        # Types hold commas too ("Mapping[str, int]"), but none that a name and a colon follow.
        parts = re.split(r", (?=\w+:|/|\*)", inside)
        named = (part.partition(":") for part in parts)
        overloads.append(
            {
                name: " = " not in text
                for name, colon, text in named
                if colon and name != "self" and not re.fullmatch(r"arg\d*", name)
            }
        )
    return overloads


def misfits(module: object, calls: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Describe the ``calls`` that the module lacks or takes other arguments for.

    Args:
        module: holds the functions, under dotted names such as "Client.compile_and_load".
        calls: name → the arguments that we give, by their names in the signature. With none, only
            the name is looked up.
    """
    found = []
    for name, given in calls.items():
        target: Any = module
        for part in name.split("."):
            target = getattr(target, part, None)
        if target is None:
            found.append(name)
            continue
        overloads = arguments(target) if given else []
        if overloads and not any(_takes(overload, given) for overload in overloads):
            found.append(f"{name}({', '.join(given)})")
    return found


def _takes(overload: dict[str, bool], given: tuple[str, ...]) -> bool:
    needed = {name for name, must in overload.items() if must}
    return overload.keys() >= set(given) >= needed
