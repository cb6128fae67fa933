"""Faces: what a user needs is imported from a package, and pages and examples do no other way."""

from __future__ import annotations

import ast
import inspect
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


def behind_faces(tree: ast.Module) -> list[str]:
    """Return the imports of maas_sdk that no face offers."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
                taken: set[str] = set()
            case ast.ImportFrom(module=str(module), names=names):
                modules = [module]
                taken = {alias.name for alias in names}
            case _:
                continue
        for module in modules:
            if module.partition(".")[0] != "maas_sdk" or module in GROUND:
                continue
            if module not in FACES or not taken <= set(import_module(module).__all__):
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_pages_import_from_faces_alone(page: Path) -> None:
    """A page that reaches behind a face would teach paths that may change."""
    assert [found for tree in blocks(page) for found in behind_faces(tree)] == []


@pytest.mark.parametrize(
    "code",
    [
        "from maas_sdk.serve.host import ModelHost",
        "from maas_sdk.serve import find_route",
        "import maas_sdk.runtime.engine",
    ],
)
def test_what_reaches_behind_a_face_is_found(code: str) -> None:
    """A module below a face, and a name that a face lacks, in either form of import."""
    assert behind_faces(ast.parse(code)) == [code]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_prose_names_faces_alone(page: Path) -> None:
    """What stands between backticks as maas_sdk.package.name is a name of that face."""
    named = re.findall(r"`(maas_sdk\.\w+(?:\.\w+)+)", page.read_text())
    for dotted in named:
        if dotted in FACES or dotted in GROUND:
            continue
        module, _, name = dotted.rpartition(".")
        assert module in FACES or module in GROUND, dotted
        assert hasattr(import_module(module), name), dotted


@pytest.mark.parametrize("face", FACES)
def test_every_name_of_a_face_is_there(face: str) -> None:
    """Also those that are imported when they are asked for; no other name is."""
    module = import_module(face)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


@pytest.mark.parametrize("face", FACES)
def test_every_name_of_a_face_is_documented(face: str) -> None:
    """Classes and functions have docstrings: help() and the reference show them."""
    module = import_module(face)
    values = {name: getattr(module, name) for name in module.__all__}
    silent = [
        name
        for name, value in values.items()
        if (inspect.isclass(value) or inspect.isroutine(value)) and not inspect.getdoc(value)
    ]
    assert silent == []


def test_every_package_is_a_face_or_internal() -> None:
    """A new package has to decide."""
    packages = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert packages == {face.split(".")[1] for face in FACES} | INTERNAL
