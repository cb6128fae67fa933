"""Where a command's answers, notes and errors go, the same for every command.

Answers for people go to stdout, notes and progress to stderr. With ``--json`` stdout carries one
JSON document and nothing else, also when the command fails: then it is ``{"error", "code"}``.
Exit codes: 0 done, 1 an error of ``maas_sdk.errors`` or a failed check, 2 wrong usage.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from maas_sdk.errors import ConfigError, MaasError, traits

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = [
    "BundlePlace",
    "Debug",
    "Json",
    "Output",
    "TrustedKey",
    "add_command",
    "examples",
    "extra",
    "reporting",
]

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout, for machines.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

# What ``store.resolve.find_bundle`` takes. A text, for a path would lose a slash of ``gs://``.
BundlePlace = Annotated[
    str,
    typer.Argument(
        help="Folder of the bundle, or a model in a store: gs://bucket/models/digits@stable."
    ),
]

TrustedKey = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY",
        help="A public key, or a file of them, one of which must have signed the bundle; repeat "
        "for several (MAAS_TRUSTED_KEYS).",
    ),
]


def add_command(
    app: typer.Typer, function: Callable[..., None], *lines: str, name: str | None = None
) -> None:
    """Register a command, under its function's name; ``lines`` are the examples of its help."""
    words = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    # Typer would keep the line breaks of the source.
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in words)
    app.command(name, help=text, epilog=examples(*lines))(function)


def examples(*lines: str) -> str:
    """The end of a command's help: lines that can be copied."""
    return "\n\n".join(["[bold]Examples[/bold]", *(escape(line) for line in lines)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What a command writes to."""

    as_json: bool
    console: Console = field(default_factory=lambda: Console(highlight=False))
    notes: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))

    def show(self, *renderables: Any) -> None:
        """Part of the answer, for people; with ``--json`` it is left out."""
        if not self.as_json:
            self.console.print(*renderables)

    def lines(self, text: str) -> None:
        """Part of the answer as it stands: lines wider than the terminal are not broken up."""
        if not self.as_json:
            self.console.print(text, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """A line about what is going on; rich markup allowed. Never on stdout."""
        self.notes.print(text)

    def progress(self) -> Progress:
        """A progress bar on stderr that leaves nothing behind."""
        from rich.progress import Progress

        return Progress(console=self.notes, transient=True)

    def document(self, value: Any) -> None:
        """The whole answer, for machines; without ``--json`` it is left out."""
        if self.as_json:
            typer.echo(json.dumps(value, ensure_ascii=False, default=str))


@contextmanager
def reporting(as_json: bool, debug: bool) -> Iterator[Output]:
    """Run a command's body; an error of our family becomes one red sentence and exit code 1."""
    output = Output(as_json=as_json)
    try:
        yield output
    except MaasError as error:
        if debug:
            raise
        output.notes.print(f"[bold red]error:[/bold red] {escape(error.message)}", soft_wrap=True)
        output.document({"error": error.message, "code": traits(error).code})
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports that need an extra of the distribution: a missing one is named.

    Raises:
        ConfigError: with the exact install line.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "maas_sdk":
            raise
        raise ConfigError(
            f"this command needs the package {error.name}: pip install 'maas-sdk[{name}]'",
            package=error.name,
        ) from error
