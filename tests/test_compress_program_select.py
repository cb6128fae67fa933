from __future__ import annotations

from typing import Any

import pytest

from maas_sdk.compress.methods.matrix_view import MatrixView
from maas_sdk.compress.program.formats import Format
from maas_sdk.compress.program.recipes import Recipe, find_recipe
from maas_sdk.compress.program.select import check_target, chosen, format_of
from maas_sdk.compress.program.traced_model import Site
from maas_sdk.errors import ConfigError


def site(name: str, size: int, kind: str = "dense") -> Site:
    layout = MatrixView(shape=(size, 8), out_axes=(1,), in_axes=(0,))
    return Site(name=name, layout=layout, kinds=(kind,), uses=1, place=(0,))


SITES = (
    site("positions", 64, "table"),
    site("stem/kernel", 64),
    site("layers/0/kernel", 64),
    site("layers/1/kernel", 64),
    site("gate/kernel", 4),
    site("head/kernel", 64),
)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, "positions stem layers/0 layers/1 head"),
        ({"min_size": 1}, "positions stem layers/0 layers/1 gate head"),
        # What is named is meant, however small.
        ({"include": "gate"}, "gate"),
        ({"include": ("layers/.*", "head/kernel")}, "layers/0 layers/1 head"),
        ({"exclude": "layers/.*"}, "positions stem head"),
        # The first and last product, which a table is not.
        ({"skip_first": True, "skip_last": True}, "positions layers/0 layers/1"),
        # An override decides before all the rest.
        ({"include": "stem", "overrides": {"gate/kernel": Format(bits=4)}}, "stem gate"),
    ],
)
def test_which_weights_are_chosen(given: dict[str, Any], names: str) -> None:
    """Patterns name weights or layers as a whole; small weights stay unless they are named."""
    found = chosen(Recipe(**given), SITES)
    assert " ".join(one.name.removesuffix("/kernel") for one in found) == names


def test_patterns_match_whole_names() -> None:
    """A piece of a name is no match."""
    with pytest.raises(ConfigError, match="no layer and no weight matches 'layers'"):
        chosen(Recipe(include=("layers",)), SITES)


def test_the_format_of_a_weight() -> None:
    """Its own, or the recipe's."""
    recipe = Recipe(overrides={"gate/kernel": None, "stem/kernel": Format(bits=4)})
    assert format_of(recipe, SITES[4]) is None
    assert format_of(recipe, SITES[1]) == Format(bits=4)
    assert format_of(recipe, SITES[2]) == Format()


@pytest.mark.parametrize("target", ["cpu-x86_64-avx2", "cuda-sm90", "tpu-v7x", None])
def test_targets_that_multiply_float8(target: str | None) -> None:
    """They take every recipe."""
    check_target(find_recipe("fp8"), target)


@pytest.mark.parametrize("target", ["cuda-sm80", "tpu-v5e", "tpu-v6e"])
def test_targets_that_do_not(target: str) -> None:
    """They refuse float8 products, and take float8 weights."""
    with pytest.raises(ConfigError, match=f"{target} multiplies no float8"):
        check_target(find_recipe("fp8"), target)
    check_target(find_recipe("fp8w"), target)
    check_target(find_recipe("int8"), target)
