"""How the commands talk: results to stdout, progress and one-line errors to stderr."""

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

results = Console(highlight=False)
messages = Console(stderr=True, highlight=False)

# What a shell reports for a program that Ctrl-C ended: 128 + SIGINT.
_INTERRUPTED = 130


def report_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors that a user can cause into one line on stderr and exit code 1, and Ctrl-C into exit code 130."""

    @functools.wraps(command)
    def reporting(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            _leave("interrupted", _INTERRUPTED)
        except (ValueError, OSError) as error:
            _leave(f"error: {' '.join(str(error).split())}", 1)

    return reporting


def _leave(message: str, exit_code: int) -> NoReturn:
    messages.print(f"[red]{escape(message)}[/red]", soft_wrap=True)
    raise typer.Exit(exit_code)


def bold(text: object) -> str:
    """A name as Rich markup, brackets in it as they are."""
    return f"[bold]{escape(str(text))}[/bold]"


def progress_bar() -> Progress:
    """A bar that shows what is done, how much of it, and how long the rest will take; gone when it is finished."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=messages,
        transient=True,
    )


__all__ = ["bold", "messages", "progress_bar", "report_errors", "results"]
