"""What ``maas_sdk.compress`` gives by name, beside modules of which one has a function's name."""

from __future__ import annotations

import inspect
import subprocess
import sys

from maas_sdk import compress


def test_the_function_and_its_module_go_by_one_name() -> None:
    """Both ways to import ``quantize`` lead to the function, whichever comes first."""
    for lines in (
        (
            "from maas_sdk.compress import quantize as a",
            "from maas_sdk.compress.quantize import quantize as b",
        ),
        (
            "from maas_sdk.compress.quantize import quantize as b",
            "from maas_sdk.compress import quantize as a",
        ),
    ):
        code = "\n".join((*lines, "assert a is b and callable(a), (a, b)"))
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
        )
        assert ran.returncode == 0, ran.stderr


def test_every_public_name_is_explained() -> None:
    """Classes and functions have docstrings; the rest are values of the package's own."""
    for name in compress.__all__:
        found = getattr(compress, name)
        if inspect.isclass(found) or inspect.isfunction(found):
            assert found.__doc__, name
            assert found.__module__.startswith("maas_sdk.compress."), name


def test_every_recipe_has_its_line() -> None:
    """``SUMMARIES`` names each recipe, and families by one of them that can be asked for."""
    assert list(compress.RECIPES) == [
        name for name in compress.SUMMARIES if name in compress.RECIPES
    ]
    for name, summary in compress.SUMMARIES.items():
        assert compress.find_recipe(name).name == name
        assert summary
        assert len(summary) <= 80
