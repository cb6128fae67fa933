"""Output of a command: answers, notes and errors, the same way for every command.

Answers for people go to stdout, notes and progress to stderr. With ``--json`` stdout carries one
JSON document and nothing else, also when the command fails: then it is ``{"error", "code"}``.
Exit codes: 0 done, 1 an error of ``maas_sdk.errors`` or a failed check, 2 wrong usage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape

from maas_sdk.errors import DependencyError, MaasError, traits

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Output", "extra", "reporting", "show_event"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """Streams of a command's output."""

    as_json: bool
    # Highlighting would colour numbers and paths in the middle of a sentence.
    console: Console = field(default_factory=lambda: Console(highlight=False))
    notes: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))

    def show(self, *renderables: Any) -> None:
        """Print a part of the answer for people; omitted with ``--json``."""
        if not self.as_json:
            self.console.print(*renderables)

    def lines(self, text: str) -> None:
        """Print a part of the answer unchanged: lines wider than the terminal are not wrapped."""
        if not self.as_json:
            # Names and paths may hold brackets, which rich would take for markup.
            self.console.print(text, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print a progress note on stderr; rich markup allowed."""
        self.notes.print(text)

    def progress(self) -> Progress:
        """A progress bar on stderr that leaves nothing behind."""
        from rich.progress import Progress

        return Progress(console=self.notes, transient=True)

    def document(self, value: Any) -> None:
        """Print the whole answer for machines; omitted without ``--json``."""
        if self.as_json:
            # Not by rich, which wraps at the terminal's width. Paths and the like become text.
            typer.echo(json.dumps(value, ensure_ascii=False, default=str))


def show_event(output: Output, event: Any) -> None:
    """Print a step of an export (``export.events.Event``) as a note."""
    if event.warning:
        output.note(f"[yellow]note:[/yellow] {escape(event.message)}")
    elif event.done == event.total:
        target = f" {event.target}" if event.target else ""
        output.note(f"[dim]{event.stage}{target}[/dim] {escape(event.message)}")


@contextmanager
def reporting(as_json: bool, debug: bool) -> Iterator[Output]:
    """Run a command's body; an error of our family becomes one red sentence and exit code 1."""
    output = Output(as_json=as_json)
    try:
        yield output
    except MaasError as error:
        if debug:
            raise
        # Not wrapped: messages hold commands, which are copied.
        output.notes.print(f"[bold red]error:[/bold red] {escape(error.message)}", soft_wrap=True)
        output.document({"error": error.message, "code": traits(error).code})
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        # 128 + SIGINT, as shells count it.
        raise typer.Exit(130) from None


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports that need an extra of the distribution: a missing one is named.

    Raises:
        DependencyError: with the exact install line.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        # A module of our own that is missing is a bug here; no extra would bring it.
        if error.name is None or error.name.split(".")[0] == "maas_sdk":
            raise
        raise DependencyError(
            f"this command needs the package {error.name}: pip install 'maas-sdk[{name}]'",
            package=error.name,
        ) from error
