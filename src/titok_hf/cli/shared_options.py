"""Options that several commands have alike: declared once, as the fields of a dataclass."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def shares_options(options: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """
    A decorator for a command whose keyword `options` takes an instance of the dataclass `options`.

    Each field of the dataclass becomes an option of the command, after the command's own ones.
    """
    shared = inspect.signature(options).parameters

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(options, include_extras=True) | inspect.get_annotations(command, eval_str=True)

        @functools.wraps(command)
        def with_options(**values: Any) -> None:
            command(options=options(**{name: values.pop(name) for name in shared}), **values)

        parameters = [
            parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in (dict(inspect.signature(command).parameters) | dict(shared)).items()
            if name != "options"
        ]
        with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads both
        with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return with_options

    return decorate
