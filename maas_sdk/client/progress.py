"""Progress of ``predict_many``, shown in a terminal. The only file here that imports rich."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from maas_sdk.errors import ConfigError, DependencyError

__all__ = ["Progress", "check_progress", "reporting", "total_of"]

# True: a bar on the terminal. A function: called with (items answered, items in all or None).
Progress = bool | Callable[[int, int | None], None]


def total_of(items: object) -> int | None:
    """Return the number of items, where it can be known without consuming them."""
    return len(items) if hasattr(items, "__len__") else None


@contextmanager
def reporting(progress: Progress, total: int | None) -> Iterator[Callable[[int], None]]:
    """Return a function to call with the number of items answered so far.

    Raises:
        DependencyError: a bar is wanted and rich is not installed.
    """
    if progress is False:
        yield lambda done: None
    elif progress is True:
        with _bar(total) as advance:
            yield advance
    else:
        yield lambda done: progress(done, total)


@contextmanager
def _bar(total: int | None) -> Iterator[Callable[[int], None]]:
    from rich import progress as rich

    columns = (
        rich.TextColumn("[progress.description]{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns) as bar:
        task = bar.add_task("predict", total=total)
        yield lambda done: bar.update(task, completed=done)


def check_progress(progress: Progress) -> None:
    """Check before the first request that the progress can be shown.

    Raises:
        ConfigError: neither a bool nor callable.
        DependencyError: a bar is wanted and rich is not installed.
    """
    if not isinstance(progress, bool) and not callable(progress):
        raise ConfigError(f"progress: expected True, False or a function, got {progress!r}")
    if progress is True:
        try:
            import rich.progress  # noqa: F401
        except ImportError as error:
            raise DependencyError(
                "progress=True draws its bar with rich, which is not installed: "
                "pip install 'maas-sdk[cli]', or pass a function"
            ) from error
