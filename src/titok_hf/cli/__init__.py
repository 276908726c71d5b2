"""The command `titok-hf`. Nothing here imports torch before a command needs it, so that `--help` answers at once."""

from .application import app


def main() -> None:
    """Run `titok-hf` with the arguments of this process, and leave with its exit code."""
    app(prog_name="titok-hf")


__all__ = ["app", "main"]
