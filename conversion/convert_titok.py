"""Convert original TiTok tokenizers, one or all, to our format.

Run it with --help; `titok-hf convert tokenizer` is the same command. What does the work can be imported from here.
"""

import typer

from titok_hf.cli.console import report_errors
from titok_hf.cli.convert import tokenizer
from titok_hf.original.conversion import convert_all_tokenizers, convert_tokenizer

__all__ = ["convert_all_tokenizers", "convert_tokenizer"]

if __name__ == "__main__":
    typer.run(report_errors(tokenizer))
