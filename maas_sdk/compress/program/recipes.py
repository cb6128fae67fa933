"""Quantization recipes: named, frozen settings, listed in ``SUMMARIES``.

The rule it keeps: a recipe is frozen and complete; the same recipe, model and data give the same
bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal

from maas_sdk.compress.program.formats import FORMATS, Format
from maas_sdk.compress.program.quantized_weight import Activations
from maas_sdk.errors import ConfigError

__all__ = ["RECIPES", "SUMMARIES", "Method", "Recipe", "find_recipe"]

Method = Literal["round", "smoothquant", "gptq", "awq", "adaquant"]

# How a static range is chosen from what calibration saw; see ``ranges.choose``.
_RANGES: Final = ("minmax", "percentile", "entropy", "mse")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Formats and methods of quantization, and the layers that they apply to."""

    name: str = "custom"
    weights: Format = field(default_factory=Format)
    # None leaves the inputs of products as they are.
    activations: Activations | None = None
    # How weights become codes.
    method: Method = "round"
    # How static ranges of activations are chosen.
    ranges: Literal["minmax", "percentile", "entropy", "mse"] = "mse"
    # Of "percentile": the share of |x| that is kept, in percent.
    percentile: float = 99.99
    # Of "smoothquant": how much of the outliers moves into the weights, 0 to 1.
    alpha: float = 0.5
    # Regular expressions for whole names of weights ("hidden/kernel") or of layers ("hidden").
    include: tuple[str, ...] = (".*",)
    exclude: tuple[str, ...] = ()
    # Leave out the first and the last layer of the program.
    skip_first: bool = False
    skip_last: bool = False
    # Fold norms into the products before them. Off, a norm stays as it is.
    fold_norms: bool = True
    # Format by name of a weight; None there leaves it in float. Decides before everything else.
    overrides: Mapping[str, Format | None] = field(default_factory=dict)
    # Weights with fewer numbers stay in float, unless a pattern names them: nothing is won.
    min_size: int = 256

    def __post_init__(self) -> None:
        if self.ranges not in _RANGES:
            raise ConfigError(
                f"Recipe.ranges: expected one of {', '.join(_RANGES)}, got {self.ranges!r}"
            )
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"Recipe.alpha: expected 0 to 1, got {self.alpha}")
        if not 0 < self.percentile <= 100:
            raise ConfigError(f"Recipe.percentile: expected 0 < share ≤ 100, got {self.percentile}")
        for name in ("include", "exclude"):
            patterns = getattr(self, name)
            patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
            object.__setattr__(self, name, patterns)
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ConfigError(
                        f"Recipe.{name}: {pattern!r} is no regular expression: {error}"
                    ) from error
        if self.method in ("gptq", "awq", "adaquant") and self.weights.kind != "integer":
            raise ConfigError(
                f"Recipe.method: {self.method} rounds to whole numbers; weights are "
                f"{self.weights.kind}. Use Format(kind='integer'), or method='round'"
            )

    @property
    def calibrates(self) -> bool:
        """True when the recipe needs calibration data."""
        return self.method != "round" or (
            self.activations is not None and self.activations.ranges == "static"
        )


_GROUPS: Final = Format(bits=4, granularity=64, clip="mse")
_INT8: Final = Activations()

RECIPES: Final[Mapping[str, Recipe]] = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="int8", activations=_INT8),
        Recipe(name="int8-static", activations=replace(_INT8, ranges="static")),
        Recipe(name="int8w"),
        Recipe(name="int4w", weights=_GROUPS),
        Recipe(name="int2w", weights=replace(_GROUPS, bits=2)),
        Recipe(name="nf4", weights=Format(kind="nf4", bits=4, granularity=64)),
        Recipe(
            name="fp8",
            weights=Format(kind="float8"),
            activations=Activations(dtype="float8_e4m3fn"),
        ),
        Recipe(name="fp8w", weights=Format(kind="float8")),
        Recipe(name="smoothquant", activations=_INT8, method="smoothquant"),
        Recipe(name="gptq", weights=_GROUPS, method="gptq"),
        Recipe(name="awq", weights=_GROUPS, method="awq"),
        Recipe(name="adaquant", weights=_GROUPS, method="adaquant"),
        Recipe(name="first-order", weights=Format(kind="levels", bits=1)),
        Recipe(name="second-order", weights=Format(kind="levels", bits=2)),
    )
}

# Name → what it does, a line each; of a family with numbers in its names, one of them.
SUMMARIES: Final[Mapping[str, str]] = {
    "int8": "weights and activations, a scale per channel and per row, found as they come",
    "int8-static": "the same with activations' scales from calibration: one pass over a row less",
    "int8w": "weights only",
    "int4w": "weights only, a scale for each 64 inputs",
    "int2w": "the same in 2 bits",
    "nf4": "weights only, 16 levels of a normal distribution, a scale for each 64 inputs",
    "fp8": "weights and activations in float8_e4m3fn",
    "fp8w": "weights only, in float8_e4m3fn",
    "smoothquant": "int8 after activations' outliers have moved into the weights; calibrates",
    "gptq": "int4w whose rounding is fitted to calibration data",
    "awq": "int4w whose scaling is fitted to calibration data",
    "adaquant": "int4w whose steps are learnt on calibration data",
    "kmeans4": "a codebook of 4 bits, or 2 to 8, for each weight",
    "sparse4-50": "half of the weights zero, a codebook of 4 bits, or 2 to 8, for the others",
    "first-order": "two levels per channel",
    "second-order": "four levels per channel",
    "Q0.7": "fixed point, m integer and n fractional bits: 1 + m + n is 8, 4 or 2",
    "hashed8": "8/32 as many numbers as weights, or 1, 2 or 4, shared by a hash of the place",
}

# Families with numbers in their names.
_FIXED: Final = re.compile(r"[qQ](-?\d+)\.(-?\d+)")
_KMEANS: Final = re.compile(r"kmeans(\d+)")
_SPARSE: Final = re.compile(r"sparse(\d+)(?:-(\d+))?")
_HASHED: Final = re.compile(r"hashed(\d+)")


def find_recipe(recipe: str | Recipe, **changes: Any) -> Recipe:
    """Return a recipe by name, with fields changed.

    Args:
        recipe: a name of the list above, or a recipe.
        changes: fields of ``Recipe``; ``bits``, ``granularity`` and other fields of ``Format``
            change the weights' format.

    Raises:
        ConfigError: no such recipe or field, or a value that a field does not take.
    """
    found = recipe if isinstance(recipe, Recipe) else _named(recipe)
    formats = {entry.name for entry in fields(Format)}
    known = {entry.name for entry in fields(Recipe)}
    unknown = sorted(changes.keys() - formats - known)
    if unknown:
        raise ConfigError(
            f"recipe {found.name}: no field {', '.join(unknown)}; there are "
            f"{', '.join(sorted(known | formats))}"
        )
    weights = {name: value for name, value in changes.items() if name in formats}
    rest = {name: value for name, value in changes.items() if name in known}
    if weights:
        rest["weights"] = replace(found.weights, **weights)
    return replace(found, **rest)


def _named(name: str) -> Recipe:
    if name in RECIPES:
        return RECIPES[name]
    form: Format | None = None
    if match := _FIXED.fullmatch(name):
        m, n = int(match[1]), int(match[2])
        if 1 + m + n not in FORMATS["fixed"]:
            raise ConfigError(
                f"recipe {name}: 1 + m + n bits must be one of "
                f"{', '.join(map(str, FORMATS['fixed']))}, got {1 + m + n}",
                recipe=name,
            )
        form = Format(kind="fixed", bits=1 + m + n, integer_bits=m, granularity="tensor")
    elif match := _KMEANS.fullmatch(name):
        form = Format(kind="kmeans", bits=int(match[1]), granularity="tensor")
    elif match := _SPARSE.fullmatch(name):
        share = None if match[2] is None else int(match[2]) / 100
        form = Format(kind="sparse", bits=int(match[1]), granularity="tensor", sparsity=share)
    elif match := _HASHED.fullmatch(name):
        form = Format(kind="hashed", bits=int(match[1]), granularity="tensor")
    if form is None:
        raise ConfigError(
            f"unknown recipe {name!r}; known are {', '.join(RECIPES)}, and by numbers kmeans4, "
            "sparse4-50, hashed8, Q0.7",
            recipe=name,
        )
    return Recipe(name=name, weights=form)
