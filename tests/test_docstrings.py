"""Form of the first line of every public docstring: an imperative or a noun phrase."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("maas_sdk", "functions", "bench", "docs/generate", "examples")

# A question or a pronoun needs the name beside it to be understood.
INTERROGATIVES = {"What", "Which", "Whether", "How", "Where", "Who", "Whose", "When", "Why"}
PRONOUNS = {"He", "I", "It", "Its", "She", "Their", "These", "They", "This", "Those", "We", "You"}
# "Does a row …?" and "Is it …?" are questions too.
QUESTIONS = {"Are", "Can", "Does", "Is"}

# A function's first line is "Return …", never "Returns …". Only forms that are verbs and no
# plural nouns: "Counts", "Stages" and "Moves" may open a noun phrase.
_VERBS = (
    "Adds Answers Applies Asks Becomes Builds Calls Checks Chooses Closes Compares Compiles "
    "Computes Converts Creates Decides Decodes Deletes Describes Draws Encodes Fetches Fills "
    "Finds Forgets Gathers Gets Gives Goes Handles Has Hands Holds Keeps Lets Listens Loads "
    "Looks Makes Opens Packs Parses Prints Produces Publishes Puts Raises Reads Refuses Removes "
    "Renders Replaces Restores Returns Runs Saves Says Sends Serves Sets Shows Sorts Starts "
    "Stops Stores Takes Tells Tests Trains Translates Tries Turns Unpacks Updates Waits Wraps "
    "Writes Yields"
)
THIRD_PERSON = frozenset(_VERBS.split())

# Decorators of attributes in all but name: their docstring is the noun, "Bytes of the file."
ATTRIBUTES = {"property", "cached_property"}

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def definitions(
    node: ast.Module | ast.ClassDef, prefix: str = ""
) -> Iterator[tuple[str, Definition]]:
    """Yield the public classes, functions and methods with their qualified names."""
    for child in node.body:
        if isinstance(child, Definition) and not re.match(r"_(?!_\w+__$)", child.name):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from definitions(child, f"{prefix}{child.name}.")


def is_attribute(node: ast.AST) -> bool:
    """Return True for a method that is read like an attribute."""
    return any(
        ast.unparse(found).rpartition(".")[2] in ATTRIBUTES
        for found in getattr(node, "decorator_list", ())
    )


def flaws(docstring: str, *, imperative: bool) -> Iterator[str]:
    """Yield the faults of a docstring's first line."""
    first, *rest = docstring.split("\n")
    word = re.match(r"[A-Za-z]*", first)[0]  # type: ignore[index]
    if word in INTERROGATIVES | PRONOUNS | QUESTIONS:
        yield f"opens with {word!r}; expected an imperative or a noun phrase"
    if imperative and word in THIRD_PERSON:
        yield f"opens with {word!r}; expected the imperative"
    if not first.endswith("."):
        yield "does not end in a full stop"
    if rest and rest[0].strip():
        yield "goes on in the second line"


def faults(source: str, where: str) -> list[str]:
    """Return a line for each fault in a file's public docstrings."""
    tree = ast.parse(source)
    found = []
    for name, node in [("module", tree), *definitions(tree)]:
        docstring = ast.get_docstring(node)
        if docstring is None:
            continue  # ruff's D rules decide who needs one
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        imperative = function and not is_attribute(node)
        first = docstring.split("\n")[0]
        found += [f"{where}: {name}: {x}: {first}" for x in flaws(docstring, imperative=imperative)]
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_first_lines(folder: str) -> None:
    """Each public docstring opens with an imperative or a noun phrase, on one line."""
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files, folder
    found = [x for f in files for x in faults(f.read_text(), str(f.relative_to(ROOT)))]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("What a tensor is.", "'What'"),
        ("It gives the bytes.", "'It'"),
        ("Does a row depend on others?", "'Does'"),
        ("Returns the bytes.", "the imperative"),
        ("Return the bytes", "full stop"),
        ("Return the bytes of a tensor\nas they travel.", "second line"),
    ],
)
def test_the_lint_finds(line: str, fault: str) -> None:
    """The lint is not blind to any of the forms that it forbids."""
    assert fault in "\n".join(faults(f'def f():\n    """{line}"""\n', "f.py"))


@pytest.mark.parametrize(
    "line", ["Return the bytes.", "Whatever-free noun phrase.", "Bytes of it."]
)
def test_the_lint_passes(line: str) -> None:
    """An imperative and a noun phrase are both fine."""
    assert not faults(f'def f():\n    """{line}"""\n', "f.py")


def test_files_named_in_docstrings_exist() -> None:
    """A docstring that points at ``file.py`` points at a file of the repository."""
    known = {
        found.name for folder in (*FOLDERS, "tests") for found in (ROOT / folder).rglob("*.py")
    }
    gone = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / "maas_sdk").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Module | Definition)
        for name in re.findall(r"``([\w/]+\.py)``", ast.get_docstring(node) or "")
        if Path(name).name not in known
    ]
    assert not gone, "\n".join(gone)
