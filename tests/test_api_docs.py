"""The API reference: it is written from the faces, and every public name of a face is described."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

GENERATOR = Path(__file__).parent.parent / "docs" / "generate" / "api.py"
# What a reader's browser shows at once, and a repository would not want to hold.
MAX_BYTES = 400_000


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """docs/generate/api.py, which lies in no package."""
    spec = importlib.util.spec_from_file_location("docs_generate_api", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def built(generator: ModuleType) -> tuple[dict[str, str], list[str]]:
    """The pages by name, and the warnings."""
    pages, warnings = generator.pages()
    return pages, warnings


def test_it_builds_without_a_warning(built: tuple[dict[str, str], list[str]]) -> None:
    """Each public class, function, method and property of a face has a docstring."""
    assert built[1] == []


def test_each_public_name_has_its_heading(
    generator: ModuleType, built: tuple[dict[str, str], list[str]]
) -> None:
    """A page per face, a heading per name of its ``__all__``, and nothing over the size."""
    pages, _ = built
    faces = generator.faces()
    assert {f"{name.removeprefix('maas_sdk.')}.md" for name in faces} == pages.keys() - {"index.md"}
    for name, face in faces.items():
        found = re.findall(r"^## `(\w+)`$", pages[f"{name.removeprefix('maas_sdk.')}.md"], re.M)
        assert found == list(face.__all__)
    assert sum(len(text.encode()) for text in pages.values()) < MAX_BYTES


def test_a_name_without_docstring_is_told(generator: ModuleType) -> None:
    """The reference would say nothing of it: that is a warning, with the full name."""

    class Silent:
        def speak(self) -> None: ...

    warnings: list[str] = []
    list(generator._entry("maas_sdk.face", "Silent", Silent, warnings))
    assert warnings == [
        "maas_sdk.face.Silent: no docstring",
        "maas_sdk.face.Silent.speak: no docstring",
    ]


def test_a_header_is_shown_as_it_is_written(generator: ModuleType) -> None:
    """Defaults keep their quotes, long headers get a line per parameter, ``self`` is left out."""

    def short(self: object, rows: int, *, name: str = "predict") -> str:
        return name

    def long_one(
        first: dict[str, dict[str, int]], *rest: int, mode: str = "new", **more: object
    ) -> dict[str, int]:
        return {}

    assert generator._signature("short", short) == (
        "```python\nshort(rows: int, *, name: str='predict') -> str\n```"
    )
    assert generator._signature("long_one", long_one) == (
        "```python\nlong_one(\n    first: dict[str, dict[str, int]],\n    *rest: int,\n"
        "    mode: str = 'new',\n    **more: object,\n) -> dict[str, int]\n```"
    )
