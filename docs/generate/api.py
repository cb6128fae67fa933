"""Write the API reference: one page per face of ``maas_sdk``, from signatures and docstrings.

``make api-docs`` writes it to build/api, which git ignores. A face is a package that lists names in
``__all__``; nothing else is promised to stay. ``tests/test_api_docs.py`` builds it without a
warning.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import maas_sdk

ROOT: Final = Path(__file__).parent.parent.parent
FOLDER: Final = ROOT / "build" / "api"

# Written for people who install the package, not for those who import it.
_NOT_FACES: Final = {"maas_sdk.cli", "maas_sdk.demo"}
_WIDTH: Final = 100


def faces() -> dict[str, types.ModuleType]:
    """Return the packages that list public names, by their full names."""
    found = {}
    for module in pkgutil.iter_modules(maas_sdk.__path__, "maas_sdk."):
        if not module.ispkg and module.name != "maas_sdk.errors":
            continue
        if module.name in _NOT_FACES:
            continue
        loaded = importlib.import_module(module.name)
        if getattr(loaded, "__all__", None):
            found[module.name] = loaded
    return found


def pages() -> tuple[dict[str, str], list[str]]:
    """Return the pages by file name, and warnings: public names that nothing describes."""
    warnings: list[str] = []
    written = {
        f"{name.removeprefix('maas_sdk.')}.md": _page(name, face, warnings)
        for name, face in faces().items()
    }
    written["index.md"] = _index(faces())
    return written, warnings


def _index(found: dict[str, types.ModuleType]) -> str:
    lines = ["# API reference", "", "Import from these packages; other modules are internal.", ""]
    for name, face in found.items():
        lines.append(f"- [`{name}`]({name.removeprefix('maas_sdk.')}.md): {_first_line(face)}")
    return "\n".join(lines) + "\n"


def _page(name: str, face: types.ModuleType, warnings: list[str]) -> str:
    parts = [f"# `{name}`", _prose(inspect.getdoc(face) or "")]
    for public in face.__all__:
        parts.extend(_entry(name, public, getattr(face, public), warnings))
    return "\n\n".join(part for part in parts if part) + "\n"


def _entry(face: str, name: str, value: Any, warnings: list[str]) -> Iterator[str]:
    yield f"## `{name}`"
    if inspect.isclass(value):
        yield from _class(f"{face}.{name}", name, value, warnings)
    elif callable(value) and hasattr(value, "__name__"):
        yield _signature(name, value)
        yield _doc(f"{face}.{name}", value, warnings)
    else:
        yield from _constant(face, name, value)


def _class(where: str, name: str, value: type, warnings: list[str]) -> Iterator[str]:
    if dataclasses.is_dataclass(value):
        yield _code(_fields(name, value))
    elif not issubclass(value, BaseException) and not getattr(value, "_is_protocol", False):
        yield _signature(name, value)
    yield _doc(where, value, warnings)
    for member, raw in vars(value).items():
        if member.startswith("_") or isinstance(raw, types.MemberDescriptorType):
            continue
        function = raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw
        if isinstance(raw, property):
            yield f"### `{name}.{member}`"
            yield _doc(f"{where}.{member}", raw, warnings)
        elif inspect.isfunction(function):
            yield f"### `{name}.{member}`"
            yield _signature(member, function)
            yield _doc(f"{where}.{member}", getattr(value, member), warnings)


def _constant(face: str, name: str, value: Any) -> Iterator[str]:
    """Describe data by the comment above it, and by its value where that is short."""
    shown = repr(value)
    if len(shown) <= _WIDTH and " at 0x" not in shown:
        yield _code(f"{name} = {shown}")
    elif isinstance(value, dict) or hasattr(value, "keys"):
        keys = (getattr(key, "__name__", str(key)) for key in value)
        yield f"Keys: {', '.join(f'`{key}`' for key in keys)}."
    comment = _comment_above(face, name)
    if comment:
        yield comment


def _comment_above(face: str, name: str) -> str:
    """Return the comment over the assignment of a public name, where it is defined."""
    module = sys.modules[face]
    source = inspect.getsource(module)
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    importlib.import_module(node.module)
                    return _comment_above(node.module, alias.name)
        target = getattr(node, "target", None) or next(iter(getattr(node, "targets", [])), None)
        if isinstance(target, ast.Name) and target.id == name:
            lines = source.splitlines()
            return _comment_before(lines, node.lineno)
    return ""


def _comment_before(lines: list[str], number: int) -> str:
    """Return the comment that ends in the line before ``number``, which counts from 1."""
    comment: list[str] = []
    for line in reversed(lines[: number - 1]):
        if not line.strip().startswith("#"):
            break
        comment.insert(0, line.strip().removeprefix("#").removeprefix(":").strip())
    return " ".join(comment)


def _fields(name: str, value: type) -> str:
    """Return a dataclass as it is written: fields, defaults, and the comments above them."""
    lines = textwrap.dedent(inspect.getsource(value)).splitlines()
    [tree] = ast.parse("\n".join(lines)).body
    assert isinstance(tree, ast.ClassDef)
    shown = [f"class {name}:"]
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and not ast.unparse(node.target).startswith("_"):
            comment = _comment_before(lines, node.lineno)
            shown += (
                textwrap.wrap(
                    comment, _WIDTH - 6, initial_indent="    # ", subsequent_indent="    # "
                )
                if comment
                else []
            )
            shown.append(f"    {ast.unparse(node)}")
    return "\n".join(shown)


def _signature(name: str, value: Any) -> str:
    """Return the header of a function, or of a class's ``__init__``, as its source has it."""
    function = inspect.unwrap(value.__init__ if inspect.isclass(value) else value)
    try:
        [tree] = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError):
        return ""
    if not isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef):
        return ""
    given = tree.args
    gives = "" if tree.returns is None or inspect.isclass(value) else ast.unparse(tree.returns)
    first = [*given.posonlyargs, *given.args][:1]
    if first and first[0].arg in ("self", "cls"):
        (given.posonlyargs or given.args).pop(0)
    arrow = f" -> {gives}" if gives else ""
    line = f"{name}({ast.unparse(given)}){arrow}"
    if len(line) <= _WIDTH:
        return _code(line)
    inner = "".join(f"    {one},\n" for one in _parameters(given))
    return _code(f"{name}(\n{inner}){arrow}")


def _parameters(given: ast.arguments) -> Iterator[str]:
    """Yield the parameters one by one, as they are written."""
    plain = [*given.posonlyargs, *given.args]
    missing: list[ast.expr | None] = [None] * (len(plain) - len(given.defaults))
    for one, default in zip(plain, [*missing, *given.defaults], strict=True):
        yield _parameter(one, default)
    if given.vararg is not None:
        yield f"*{ast.unparse(given.vararg)}"
    elif given.kwonlyargs:
        yield "*"
    for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield _parameter(one, default)
    if given.kwarg is not None:
        yield f"**{ast.unparse(given.kwarg)}"


def _parameter(one: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(one) + ("" if default is None else f" = {ast.unparse(default)}")


def _doc(where: str, value: Any, warnings: list[str]) -> str:
    text = inspect.getdoc(value)
    if not text or (inspect.isclass(value) and text.startswith(f"{value.__name__}(")):
        # What dataclass writes where nobody did.
        warnings.append(f"{where}: no docstring")
        return ""
    return _prose(text)


def _first_line(value: Any) -> str:
    return " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split()).replace("``", "`")


def _prose(text: str) -> str:
    """Turn a docstring into Markdown: sections as bold words, their entries as lists."""
    text = text.replace("``", "`")
    lines: list[str] = []
    section = False
    for line in text.splitlines():
        if re.fullmatch(r"(Args|Raises|Returns|Yields|Attributes|Example|Examples):", line):
            lines += [f"**{line[:-1]}**", ""]
            section = True
        elif section and line.startswith("    ") and not line.startswith("     "):
            found = re.match(r"    ([\w*]+): (.*)", line)
            lines.append(f"- `{found[1]}`: {found[2]}" if found else line.strip())
        elif section and line.startswith("        "):
            lines.append(f"  {line.strip()}")
        else:
            section = section and not line.strip()
            lines.append(line)
    return "\n".join(lines)


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def main() -> int:
    """Write the pages; return 1 where a public name is not described."""
    written, warnings = pages()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"written: {len(written)} pages in {FOLDER}")
    return 1 if warnings else 0


if __name__ == "__main__":
    sys.exit(main())
