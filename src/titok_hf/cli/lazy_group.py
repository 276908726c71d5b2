"""A group of commands whose modules are imported only when a command is used, so that `titok-hf --help` is fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

MARKUP: Literal["markdown"] = "markdown"


@dataclass(frozen=True)
class Entry:
    """
    Args:
        summary: a line for the list of commands.
        module: of this package, with the command.
        name: of the function there, or of a `typer.Typer` with several commands.
    """

    summary: str
    module: str
    name: str


class LazyCommands(Mapping[str, Any]):
    """The commands of a group by name; each is imported when it is first looked up."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = entries
        self._loaded: dict[str, Any] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = _load(name, self.entries[name])
        return self._loaded[name]


def lazy_group(entries: Mapping[str, Entry]) -> type[TyperGroup]:
    """The class of a group with these commands, for `typer.Typer(cls=...)`."""

    class LazyGroup(TyperGroup):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.commands = LazyCommands(entries)  # type: ignore[assignment]  # nobody adds a command to it
            self._lists_commands = False

        def list_commands(self, ctx: Any) -> list[str]:
            return list(self.commands)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            if self._lists_commands:
                return TyperCommand(cmd_name, help=entries[cmd_name].summary)
            return self.commands.get(cmd_name)

        def format_help(self, ctx: Any, formatter: Any) -> None:
            self._lists_commands = True
            try:
                super().format_help(ctx, formatter)
            finally:
                self._lists_commands = False

    return LazyGroup


def _load(name: str, entry: Entry) -> Any:
    """A command or a group of commands, as typer builds it."""
    from .console import report_errors

    found: typer.Typer | Callable[..., None] = getattr(import_module(entry.module, __package__), entry.name)
    if not isinstance(found, typer.Typer):
        app = typer.Typer(rich_markup_mode=MARKUP, add_completion=False, pretty_exceptions_enable=False)
        app.command(name)(report_errors(found))
        return typer.main.get_command(app)
    command = typer.main.get_group(found)
    command.name = name
    return command
