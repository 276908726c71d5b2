"""Export a model of ours to the format of the original implementation.

Run it with --help; `titok-hf convert export` is the same command. What does the work can be imported from here.
"""

import typer

from titok_hf.cli.console import report_errors
from titok_hf.cli.convert import export
from titok_hf.original.conversion import export_to_original

__all__ = ["export_to_original"]

if __name__ == "__main__":
    typer.run(report_errors(export))
