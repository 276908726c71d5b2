"""Commands of `titok-hf`, run in this process."""

from typing import Any

from typer.testing import CliRunner, Result

from titok_hf.cli import app


def run(*arguments: Any) -> Result:
    """The result of a command, whatever it is."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments: Any) -> Result:
    """The result of a command that must end without an error."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result
