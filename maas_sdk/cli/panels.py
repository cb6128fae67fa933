"""Panels of ``maas --help``: one table says which commands there are, where, and in which order.

A panel's commands lie in one folder of this package; ``tests/test_cli_help.py`` compares the two.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from rich.markup import escape
from typer.core import TyperArgument, TyperCommand, TyperGroup

if TYPE_CHECKING:
    import typer

__all__ = ["PANELS", "CommandGroup", "CommandHelp", "add_command", "examples", "panel_of"]

# In the order in which a model meets them; the help prints it so.
PANELS: Final[Mapping[str, tuple[str, ...]]] = {
    "Build": (
        *("export", "quantize", "reweight", "package"),
        *("keygen", "seal", "inspect", "verify"),
    ),
    "Serve": ("serve", "predict", "batch", "bench"),
    "Store": ("push", "pull", "list", "promote", "rollback", "gc"),
    "Deploy": ("deploy", "status", "destroy"),
    "Study": ("demo", "evaluate", "parity", "plan"),
}


def panel_of(command: str) -> str:
    """Return the panel that a command of ``maas`` is shown in.

    Raises:
        KeyError: the table does not name the command.
    """
    for panel, commands in PANELS.items():
        if command in commands:
            return panel
    raise KeyError(f"no panel of maas_sdk/cli/panels.py names the command {command!r}")


class CommandGroup(TyperGroup):
    """``maas`` itself: commands in the order of ``PANELS``."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands, panel by panel."""
        # Typer would list groups, such as `bench`, before all commands.
        return [name for names in PANELS.values() for name in names if name in self.commands]

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options of ``maas``, each with its type as help shows it."""
        return _without_python_types(super().get_params(ctx))


class CommandHelp(TyperCommand):
    """A command whose help names values, such as PATH, and no Python types."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the command's arguments and options, each with its type as help shows it."""
        return _without_python_types(super().get_params(ctx))


def _without_python_types(params: list[Any]) -> list[Any]:
    """Hide the type where a metavar cannot replace it: of flags (<bool>), of arguments (<str>)."""
    for param in params:
        if isinstance(param, TyperArgument) or getattr(param, "is_flag", False):
            # Set on the instance: Typer makes these objects itself, of classes of its own.
            param.display_type_rich = _no_type
    return params


def _no_type(ctx: Any) -> None:
    return None


def add_command(
    app: typer.Typer,
    function: Callable[..., None],
    *lines: str,
    name: str | None = None,
    panel: str | None = None,
) -> None:
    """Register a command, with its docstring as the help.

    Args:
        app: ``maas``, or a group of it.
        function: what the command runs.
        lines: the examples at the end of its help.
        name: of the command; else the function's.
        panel: where the help of ``app`` shows it; else what ``PANELS`` says.
    """
    words = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    # Typer would keep the line breaks of the source.
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in words)
    name = name or function.__name__
    app.command(
        name,
        cls=CommandHelp,
        # Rich would take the brackets of maas-sdk[serve] for markup and print none of it.
        help=escape(text),
        epilog=examples(*lines),
        rich_help_panel=panel or panel_of(name),
    )(function)


def examples(*lines: str) -> str:
    """Return the end of a command's help: lines that can be copied."""
    return "\n\n".join(["[bold]Examples[/bold]", *(escape(line) for line in lines)])
