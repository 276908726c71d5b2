"""
The command `titok-hf`.

Nothing here imports torch before a command needs it, so that `--help` answers at once. Errors and signals become
sentences and exit codes in `boundary`, which is in force before anything else is imported.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

from .boundary import run


def main(*command: str) -> NoReturn:
    """
    Run `titok-hf` with the arguments of this process, and leave with its exit code.

    Args:
        command: words to put in front of those arguments ("convert", "vqgan").
    """

    def program() -> None:
        from .application import app

        app([*command, *sys.argv[1:]], prog_name="titok-hf")

    run(program)


def __getattr__(name: str) -> Any:
    if name == "app":
        from .application import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
