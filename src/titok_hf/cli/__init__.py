"""
The command `titok-hf`.

Nothing here imports torch before a command needs it, so that `--help` answers at once; and nothing at all is imported
before the boundary is in force that turns errors and signals into sentences and exit codes.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from .application import app


def main(*command: str) -> NoReturn:
    """
    Run `titok-hf` with the arguments of this process, and leave with its exit code.

    Args:
        command: words to put in front of those arguments ("convert", "vqgan").
    """
    from ..boundary import run

    def program() -> None:
        from .application import app

        app([*command, *sys.argv[1:]], prog_name="titok-hf")

    run(program)


def __getattr__(name: str) -> Any:
    if name == "app":
        from .application import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["app", "main"]
