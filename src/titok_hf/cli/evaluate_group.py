"""`titok-hf evaluate`: its commands, put together."""

import typer

from .console import report_errors
from .evaluate import compare, npz
from .evaluate_models import generation, reconstruction
from .linear_probe import linear_probe
from .rate import rate, token_map

app = typer.Typer(
    help="Measure tokenizers, generators and files of images: each number comes with what it depends on.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
for command in (reconstruction, generation, npz, compare, linear_probe, rate, token_map):
    app.command()(report_errors(command))
