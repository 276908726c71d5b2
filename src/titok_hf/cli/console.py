"""How the commands talk: results to stdout, progress and one-line errors to stderr."""

import functools
import json
import math
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from rich.console import Console, RenderableType
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


def answer(values: dict[str, Any], as_json: bool, *shown: RenderableType) -> None:
    """
    Say what came out: one JSON object for programs, or what people like to read.

    Args:
        values: JSON types and paths. A number that is not finite becomes null, since JSON has none.
        as_json: what `--json` says.
        shown: the same for people.
    """
    if as_json:
        typer.echo(json.dumps(_plain(values), indent=2, allow_nan=False))
        return
    for part in shown:
        # Lines as long as they are: a path that is broken in two can't be copied.
        results.print(part, soft_wrap=isinstance(part, str))


def _plain(value: Any) -> Any:
    """JSON types alone."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


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


__all__ = ["answer", "bold", "messages", "progress_bar", "report_errors", "results"]
