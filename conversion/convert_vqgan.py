"""Convert the MaskGIT-VQGAN, from its PyTorch or its Flax file, to our format.

Run it with --help; `titok-hf convert vqgan` is the same command. What does the work can be imported from here.
"""

import typer

from titok_hf.cli.console import report_errors
from titok_hf.cli.convert import vqgan
from titok_hf.original.conversion import convert_vqgan

__all__ = ["convert_vqgan"]

if __name__ == "__main__":
    typer.run(report_errors(vqgan))
