"""Write docs/cli.md from the commands of ``maas``: panels, usage, options, defaults, examples.

``make cli-docs`` runs it. ``tests/test_cli_help.py`` fails when the committed page is another one.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import typer.main
from typer.core import TyperArgument

from maas_sdk.cli.app import app
from maas_sdk.cli.panels import PANELS

PAGE: Final = Path(__file__).parent.parent / "cli.md"

INTRO: Final = """\
<!-- Written by `make cli-docs` from the help texts in maas_sdk/cli; changes here are lost. -->
# The command line

`pip install 'maas-sdk[cli]'` brings `maas`; each command says which extra it needs beyond that.
`pip install 'maas-sdk[demo]'` brings all of them. `maas --help` lists the commands, and
`maas COMMAND --help` shows what stands below.

Every command has these options besides its own:

- `--json` prints one JSON document on stdout, for scripts. Notes and progress are on stderr, with
  and without it. When the command fails, the document is `{"error": "…", "code": "…"}`.
- `--debug` shows the traceback of an error, which otherwise is one sentence.
- `--help`, `-h` shows the help.

Exit codes: 0 done, 1 an error or a failed check, 2 wrong usage.

`BUNDLE` is a folder, or a model in a [store](store.md): `gs://bucket/models/digits@stable`,
`file:///srv/store/digits@3`, `store/digits@3`. A bundle in a bucket is first fetched into
[the cache](store.md#the-cache), and needs `maas-sdk[gcp]`.
"""

# Said once for all commands.
_EVERYWHERE: Final = {"--json", "--debug", "--help"}
_WIDTH: Final = 110

# What Markdown would take for something else, or what a reader copies.
_CODE: Final = re.compile(
    r"--[a-z][\w-]*|<\w+>(?:[/@]<\w+>)*|maas-sdk\[[\w,]+\]|\b(?:MAAS|GOOGLE)_[A-Z_]+\b"
    r"|\b(?:gs|gcp-secret):\S*[\w/…]"
)
_LINK: Final = re.compile(r"\bdocs/([\w-]+\.md)(#[\w-]+)?")


def page() -> str:
    """Return the page as it has to be."""
    return "\n".join((INTRO, *_sections()))


def _sections() -> Iterator[str]:
    group = typer.main.get_command(app)
    for panel, names in PANELS.items():
        yield f"## {panel}\n"
        for name in names:
            for words, command in _commands(group.commands[name], ("maas", name)):  # type: ignore[attr-defined]
                yield from _command(words, command)


def _commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield a command, or the commands of a group, each with the words that call it."""
    if not hasattr(command, "commands"):
        yield words, command
        return
    for name, inner in command.commands.items():
        yield from _commands(inner, (*words, name))


def _command(words: tuple[str, ...], command: Any) -> Iterator[str]:
    name = " ".join(words)
    yield f"### `{name}`\n"
    for paragraph in command.help.split("\n\n"):
        yield textwrap.fill(
            _markdown(paragraph), _WIDTH, break_long_words=False, break_on_hyphens=False
        )
        yield ""
    arguments = [one for one in command.params if isinstance(one, TyperArgument)]
    # Not Typer's own line: its brackets change from version to version.
    usage = (one.metavar if one.required else f"[{one.metavar}]" for one in arguments)
    yield f"Usage: `{' '.join((name, '[OPTIONS]', *usage))}`\n"
    if arguments:
        yield from _table("argument", ((_argument(one), one) for one in arguments))
    panels: dict[str, list[Any]] = {}
    for option in command.params:
        if option not in arguments and not _EVERYWHERE & set(option.opts):
            panels.setdefault(option.rich_help_panel or "", []).append(option)
    for title, options in panels.items():
        yield from _table(
            f"option: {title}" if title else "option", ((_option(one), one) for one in options)
        )
    yield "```sh"
    yield from re.findall(r"^maas .*$", _plain(command.epilog), re.MULTILINE)
    yield "```\n"


def _table(title: str, rows: Iterable[tuple[str, Any]]) -> Iterator[str]:
    yield f"| {title} | meaning | default |\n|---|---|---|"
    for name, parameter in rows:
        meaning = _markdown(parameter.help) + _range(parameter)
        yield f"| {_cell(name)} | {_cell(meaning)} | {_cell(_default(parameter))} |"
    yield ""


def _argument(parameter: Any) -> str:
    return f"`{parameter.metavar}`"


def _option(parameter: Any) -> str:
    """Return an option's spellings and the name of its value: ``--out PATH``, ``-o``."""
    names = [*parameter.opts, *parameter.secondary_opts]
    value = "" if parameter.is_flag else f" {parameter.metavar}"
    return ", ".join(f"`{name}{'' if index else value}`" for index, name in enumerate(names))


def _range(parameter: Any) -> str:
    match parameter.min, parameter.max:
        case None, None:
            return ""
        case low, None:
            return f" At least {low:g}."
        case low, high:
            return f" From {low:g} to {high:g}."


def _default(parameter: Any) -> str:
    if parameter.required:
        variable = f", or `{parameter.envvar}`" if parameter.envvar else ""
        return f"required{variable}"
    variable = f"`{parameter.envvar}`, or " if parameter.envvar else ""
    if isinstance(parameter.show_default, str):
        return variable + _markdown(parameter.show_default)
    if getattr(parameter, "is_flag", False):
        spelled = parameter.opts if parameter.default else parameter.secondary_opts
        return f"`{spelled[0]}`" if spelled else ""
    if isinstance(parameter.default, float):
        return f"`{parameter.default:g}`"
    return "" if parameter.default is None else f"`{parameter.default}`"


def _plain(text: str) -> str:
    """Undo the escapes that rich needs."""
    return text.replace("\\[", "[")


def _markdown(text: str) -> str:
    """Turn a help text into Markdown: code and links that a terminal has no signs for."""
    parts = _plain(text).split("`")
    # Every second part stood between backticks already.
    parts[::2] = [
        _LINK.sub(r"[\1](\1\2)", _CODE.sub(lambda found: f"`{found[0]}`", part))
        for part in parts[::2]
    ]
    return "`".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page().rstrip("\n") + "\n", encoding="utf-8")
    print(f"written: {PAGE}")
