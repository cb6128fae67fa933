from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from maas_sdk import __version__
from maas_sdk.cli.app import app
from maas_sdk.cli.panels import PANELS, panel_of

ROOT: Any = typer.main.get_command(app)  # a group: typer promises a command
DOCS = Path(__file__).parent.parent / "docs" / "cli.md"
GENERATOR = DOCS.parent / "generate" / "cli.py"


def commands(group: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command under its full name, ``bench cold`` for instance."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


ALL = dict(commands())


def example_lines(command: Any) -> list[str]:
    """The examples at the end of a command's help."""
    return re.findall(r"^maas .*$", command.epilog or "", re.MULTILINE)


def parse(words: list[str]) -> None:
    """Parse arguments as the command would, without running it."""
    group, name = ROOT, words.pop(0)
    while hasattr(group.commands[name], "commands"):
        group, name = group.commands[name], words.pop(0)
    group.commands[name].make_context(name, words)


def test_all_commands_of_the_issue_are_there() -> None:
    """Nobody loses a command by renaming a file."""
    assert set(ALL) == {
        *("demo", "export", "inspect", "verify", "package", "reweight", "serve", "predict"),
        *("evaluate", "parity", "plan", "quantize", "keygen", "seal", "batch"),
        *("push", "pull", "list", "promote", "rollback", "gc"),
        *("deploy", "status", "destroy"),
        *("bench cold", "bench load"),
    }


@pytest.mark.parametrize("name", ALL)
def test_a_command_is_explained(name: str) -> None:
    """Help, a help text for each option, and at least one example that parses."""
    command = ALL[name]
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"{name}: {parameter.name} has no help"
    lines = example_lines(command)
    assert lines, f"{name} has no example"
    for line in lines:
        words = shlex.split(line)
        assert " ".join(words).startswith(f"maas {name}")
        parse(words[1:])


@pytest.mark.parametrize("name", ALL)
def test_every_command_speaks_json(name: str) -> None:
    """``--json`` and ``--debug`` are options of each."""
    options = {option for parameter in ALL[name].params for option in parameter.opts}
    assert {"--json", "--debug"} <= options


def test_the_page_is_what_is_generated() -> None:
    """docs/cli.md is what `make cli-docs` writes: no option and no example is missing or stale."""
    spec = importlib.util.spec_from_file_location("docs_generate_cli", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    written = DOCS.read_text(encoding="utf-8")
    assert written == generator.page().rstrip("\n") + "\n", "run: make cli-docs"
    for name, command in ALL.items():
        assert f"### `maas {name}`\n" in written
        assert set(example_lines(command)) <= set(written.splitlines())


def test_a_panel_is_a_folder() -> None:
    """Each panel of the help holds the commands of one folder of maas_sdk/cli, and all of them."""
    folders: dict[str, set[str]] = {}
    for name, command in ALL.items():
        folder = command.callback.__module__.removeprefix("maas_sdk.cli.").split(".")[0]
        folders.setdefault(panel_of(name.split()[0]), set()).add(folder)
    assert folders == {
        "Build": {"build"},
        "Serve": {"serving"},
        "Store": {"stores"},
        "Deploy": {"deployment"},
        "Study": {"study"},
    }
    assert sorted(ROOT.commands) == sorted(name for names in PANELS.values() for name in names)


def test_help_shows_the_panels_in_their_order() -> None:
    """Panels as in the table, and each command in its own panel, in the table's order."""
    output = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100"}).output
    titles = re.findall(r"^╭─ (\w+) ─", output, re.MULTILINE)
    assert titles == ["Options", *PANELS]
    shown = re.findall(r"^│ ([a-z]+) ", output, re.MULTILINE)
    assert shown == [name for names in PANELS.values() for name in names]


@pytest.mark.parametrize("name", ALL)
def test_values_have_names(name: str) -> None:
    """Help says PATH, ROWS or SECONDS, never the name of a Python type."""
    output = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "120"}).output
    assert not re.search(r"<(?:bool|str|int|float|path|file|list|choice)\b", output), output


@pytest.mark.parametrize("name", ALL)
def test_long_commands_group_their_options(name: str) -> None:
    """No group of options is longer than what is seen at a glance."""
    groups = Counter(
        option.rich_help_panel for option in ALL[name].params if option.param_type_name == "option"
    )
    assert max(groups.values()) <= 10, groups


@pytest.mark.parametrize("name", ALL)
def test_an_option_says_its_default(name: str) -> None:
    """An option that may be left out says in its help what holds then; a flag is off."""
    for option in ALL[name].params:
        if option.param_type_name == "option" and not option.is_flag and not option.required:
            told = option.default is not None or isinstance(option.show_default, str)
            # Of `maas rollback` and `maas parity`: not left out, but for the other of two forms.
            assert told or option.show_default is False, f"{name}: {option.opts}"


def test_help_prints_the_examples() -> None:
    """What a person sees."""
    result = CliRunner().invoke(app, ["inspect", "--help"], env={"COLUMNS": "100"})
    assert result.exit_code == 0
    assert "maas inspect digits.maas --json" in result.output


def test_version() -> None:
    """``maas --version`` says the package's."""
    result = CliRunner().invoke(app, ["--version"])
    assert result.output == f"maas {__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    """A fresh process that prints the help has loaded neither numpy nor JAX nor a web server."""
    code = (
        "import sys\n"
        "from maas_sdk.cli import main\n"
        "sys.argv = ['maas', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'numpy', 'jax', 'jaxlib', 'flax', 'httpx', 'uvicorn', 'flask', 'PIL'}\n"
        "print('loaded:', sorted(heavy & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "loaded: []" in done.stdout
    assert "demo" in done.stdout


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_packages_the_install_line_is_printed(missing: str) -> None:
    """The base install is the client; ``maas`` then says what to install, without a traceback."""
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from maas_sdk.cli import main\n"
        "sys.argv = ['maas', 'demo']; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"maas needs the package {missing}: pip install 'maas-sdk[cli]'\n"


@pytest.mark.parametrize(
    "arguments",
    [["inspect"], ["nothing"], ["serve", "x", "--port", "70000"], ["bench", "cold", "x", "--x"]],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    """Usage errors are told from failures by their exit code."""
    assert CliRunner().invoke(app, arguments).exit_code == 2
