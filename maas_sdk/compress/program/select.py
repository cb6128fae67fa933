"""Selection of a recipe's weights and their formats, and the check of the target.

The rule it keeps: a pattern that matches nothing is an error with the nearest names, before any
weight is read.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Final

from maas_sdk.compress.program.formats import Format
from maas_sdk.compress.program.recipes import Recipe
from maas_sdk.compress.program.traced_model import Site
from maas_sdk.errors import ConfigError

__all__ = ["check_target", "chosen", "format_of"]


def chosen(recipe: Recipe, sites: Sequence[Site]) -> tuple[Site, ...]:
    """Return the weights that a recipe applies to, in the order of the program.

    Raises:
        ConfigError: a pattern that matches no weight and no layer, an override for a weight that is
            not there, or nothing left to quantize.
    """
    names = [site.name for site in sites]
    known = sorted({*names, *(site.layer for site in sites)})
    for field in ("include", "exclude"):
        for pattern in getattr(recipe, field):
            if not any(_matches(pattern, site) for site in sites):
                raise ConfigError(
                    f"{field}: no layer and no weight matches {pattern!r}; "
                    + _nearest(pattern, known),
                    pattern=pattern,
                )
    for name in recipe.overrides:
        if name not in names:
            raise ConfigError(
                f"overrides: no weight {name!r}; {_nearest(name, known)}", weight=name
            )
    named = recipe.include != (".*",)
    products = [site for site in sites if site.kinds != ("table",)]
    ends = {*products[:1]} if recipe.skip_first else set()
    ends |= {*products[-1:]} if recipe.skip_last else set()
    out = {site.name for site in ends}
    found = tuple(
        site
        for site in sites
        if site.name in recipe.overrides
        or (
            any(_matches(pattern, site) for pattern in recipe.include)
            and not any(_matches(pattern, site) for pattern in recipe.exclude)
            and site.name not in out
            and (named or _size(site) >= recipe.min_size)
        )
    )
    if not found:
        raise ConfigError(
            "nothing is left to quantize: "
            + (f"the weights are {', '.join(names)}" if names else "the model has no products")
            + f"; include {list(recipe.include)}, exclude {list(recipe.exclude)}, "
            f"min_size {recipe.min_size}"
        )
    return found


def format_of(recipe: Recipe, site: Site) -> Format | None:
    """Return the format of a weight; None where it stays in float."""
    if site.name in recipe.overrides:
        return recipe.overrides[site.name]
    return recipe.weights


def _matches(pattern: str, site: Site) -> bool:
    return any(re.fullmatch(pattern, text) for text in (site.name, site.layer))


def _nearest(wanted: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.4)
    shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    return (f"nearest are {', '.join(near)}; " if near else "") + f"there are {shown}"


def _size(site: Site) -> int:
    return site.layout.channels * site.layout.inputs * (site.layout.stack or 1)


# Where products in float8 are computed as such, by the beginning of a target's name. CPUs compute
# with the rounded numbers in float32: slower than float32 itself, but right.
_FLOAT8: Final = (
    "cpu",
    "cuda-sm89",
    "cuda-sm90",
    "cuda-sm100",
    "cuda-sm103",
    "cuda-sm120",
    "tpu-v7",
)
_TARGETS: Final = ("cpu", "cuda-sm", "tpu-v")


def check_target(recipe: Recipe, target: str | None) -> None:
    """Check a recipe against its target.

    Raises:
        ConfigError: a target of no known kind, or arithmetic that it does not have.
    """
    if target is None:
        return
    if not target.startswith(_TARGETS):
        raise ConfigError(
            f"target {target!r}: expected a name such as cpu-x86_64-avx2, cuda-sm90 or tpu-v5e",
            target=target,
        )
    activations = recipe.activations
    if (
        activations is not None
        and activations.dtype.startswith("float8")
        and not target.startswith(_FLOAT8)
    ):
        raise ConfigError(
            f"recipe {recipe.name}: {target} multiplies no float8 (8 bits of float), which is "
            f"there on {', '.join(_FLOAT8[1:])}. Use int8, or fp8w, which decodes before it "
            "multiplies",
            target=target,
        )
