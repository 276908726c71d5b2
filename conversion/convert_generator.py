"""Convert an original MaskGIT generator, with its tokenizer to a complete pipeline, to our format.

Run it with --help; `titok-hf convert generator` is the same command. What does the work can be imported from here.
"""

import typer

from titok_hf.cli.console import report_errors
from titok_hf.cli.convert import generator
from titok_hf.original.conversion import convert_generator

__all__ = ["convert_generator"]

if __name__ == "__main__":
    typer.run(report_errors(generator))
