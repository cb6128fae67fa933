"""Faces: what a user needs is imported from a package, and pages and examples do no other way."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "maas_sdk"
# Modules that are faces by themselves.
GROUND = {"maas_sdk", "maas_sdk.errors", "maas_sdk.tensors"}
# Packages whose names are for other packages of ours; their docstrings say what they hold.
INTERNAL = {"charts", "children", "model", "reports", "wire"}
FACES = {
    ".".join(("maas_sdk", *file.parent.relative_to(PACKAGE).parts)): file
    for file in sorted(PACKAGE.glob("*/**/__init__.py"))
    if "__all__" in file.read_text()
}
PAGES = [
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    *sorted((REPOSITORY / "examples").rglob("*.py")),
    *sorted((REPOSITORY / "functions").rglob("*.py")),
]


def blocks(page: Path) -> Iterator[ast.Module]:
    """Return the Python of a page: a whole script, or the blocks of a Markdown file."""
    text = page.read_text()
    if page.suffix == ".py":
        yield ast.parse(text)
        return
    for block in re.findall(r"^ *```python\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
        yield ast.parse(textwrap.dedent(block))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_pages_import_from_faces_alone(page: Path) -> None:
    """A page that reaches behind a face would teach paths that may change."""
    for tree in blocks(page):
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                "maas_sdk"
            ):
                continue
            module = str(node.module)
            assert module in FACES or module in GROUND, f"{page.name}: {ast.unparse(node)}"
            if module in FACES:
                stated = import_module(module).__all__
                names = {alias.name for alias in node.names}
                assert names <= set(stated), f"{page.name}: {ast.unparse(node)}"


@pytest.mark.parametrize("face", FACES)
def test_every_name_of_a_face_is_there(face: str) -> None:
    """Also those that are imported when they are asked for; no other name is."""
    module = import_module(face)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


def test_every_package_is_a_face_or_internal() -> None:
    """A new package has to decide."""
    packages = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert packages == {face.split(".")[1] for face in FACES} | INTERNAL
