from __future__ import annotations

import re
from typing import Any

import pytest

from maas_sdk.compress.program.formats import Format
from maas_sdk.compress.program.recipes import RECIPES, SUMMARIES, Recipe, find_recipe
from maas_sdk.errors import ConfigError


def test_every_recipe_is_said_what_it_does() -> None:
    """The table of summaries has each, and of families with numbers one that works."""
    assert RECIPES.keys() <= SUMMARIES.keys()
    for name in SUMMARIES:
        assert find_recipe(name).name == name


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("kmeans3", Format(kind="kmeans", bits=3, granularity="tensor")),
        ("sparse4", Format(kind="sparse", bits=4, granularity="tensor")),
        ("sparse5-75", Format(kind="sparse", bits=5, granularity="tensor", sparsity=0.75)),
        ("hashed4", Format(kind="hashed", bits=4, granularity="tensor")),
        ("Q2.5", Format(kind="fixed", bits=8, integer_bits=2, granularity="tensor")),
        ("q-1.4", Format(kind="fixed", bits=4, integer_bits=-1, granularity="tensor")),
    ],
)
def test_names_with_numbers(name: str, form: Format) -> None:
    """Each number is where it belongs."""
    assert find_recipe(name).weights == form


def test_changes_go_where_they_belong() -> None:
    """Fields of the format change the weights', others the recipe; the listed one stays."""
    found = find_recipe("int4w", granularity=32, include="layers/.*", skip_last=True)
    assert found.weights == Format(bits=4, granularity=32, clip="mse")
    assert (found.include, found.skip_last) == (("layers/.*",), True)
    assert RECIPES["int4w"].weights.granularity == 64
    assert find_recipe(found) == found


def test_which_recipes_calibrate() -> None:
    """Methods that look at inputs, and static ranges."""
    needing = {name for name, recipe in RECIPES.items() if recipe.calibrates}
    assert needing == {"int8-static", "smoothquant", "gptq", "awq", "adaquant"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ranges": "max"}, "Recipe.ranges: expected one of minmax, percentile, entropy, mse"),
        ({"alpha": 2}, "Recipe.alpha: expected 0 to 1, got 2"),
        ({"percentile": 0}, "Recipe.percentile: expected 0 < share ≤ 100, got 0"),
        ({"method": "gptq", "weights": Format(kind="nf4", bits=4)}, "gptq rounds to whole numbers"),
    ],
)
def test_recipes_that_cannot_be(given: dict[str, Any], message: str) -> None:
    """Refused when written down."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        Recipe(**given)
