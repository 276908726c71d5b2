"""What commands print: results to stdout, progress and errors of one sentence to stderr."""

import functools
import inspect
import json
import math
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from typer.models import OptionInfo

from .boundary import end_with


class _Stderr:
    """The current stderr. Errors in writing to it are ignored, since it shows progress only."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


results = Console(highlight=False)
messages = Console(file=cast(IO[str], _Stderr()), highlight=False)


def report_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command: any error becomes one sentence on stderr and an exit code."""

    @functools.wraps(command)
    def reporting(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):  # typer ends a command with these
            raise
        except (KeyboardInterrupt, Exception) as error:
            raise typer.Exit(end_with(error, kwargs, _options_of(command))) from error

    return reporting


def _options_of(command: Callable[..., None]) -> dict[str, str]:
    """The options of a command, by the names of its parameters."""
    options = {}
    # Not `get_type_hints`, which on Python 3.10 hides options whose default is None within `Optional[...]`.
    for name, hint in inspect.get_annotations(command, eval_str=True).items():
        for declared in getattr(hint, "__metadata__", ()):
            if isinstance(declared, OptionInfo):
                # Within `Annotated`, the first name is in the place of the default value.
                names = [text for text in (declared.default, *(declared.param_decls or ())) if isinstance(text, str)]
                long = [text.partition("/")[0] for text in names if text.startswith("--")]
                options[name] = long[0] if long else f"--{name.replace('_', '-')}"
    return options


def answer(values: dict[str, Any], as_json: bool, *shown: RenderableType) -> None:
    """
    Print the result of a command.

    Args:
        values: JSON types and paths, printed with `--json`; a number that is not finite becomes null.
        as_json: the option `--json`.
        shown: the result for people, printed without it.
    """
    try:
        if as_json:
            typer.echo(as_json_text(values))
        for part in () if as_json else shown:
            # No line breaks within a line: a path on two lines cannot be copied.
            results.print(part, soft_wrap=isinstance(part, str))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"the answer cannot be written to standard output ({error}).") from error


def as_json_text(values: dict[str, Any]) -> str:
    """JSON of paths and JSON types; a number that is not finite becomes null, since JSON has none."""
    return json.dumps(_plain(values), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    """A value converted to JSON types."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def is_stdout(path: Path) -> bool:
    """Whether a path is the standard output, as `/dev/stdout` is."""
    try:
        return os.path.samestat(path.stat(), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError):  # no such path, or a stdout that is no file
        return False


def bold(text: object) -> str:
    """A name in bold Rich markup; brackets in it are escaped."""
    return f"[bold]{escape(str(text))}[/bold]"


def progress_bar() -> Progress:
    """A bar with the number of finished items and the time left, which disappears at the end."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=messages,
        transient=True,
    )
