"""The commands of `titok-hf`, put together."""

from typing import Annotated

import typer

from .. import __version__
from .codes import decode, encode
from .console import report_errors
from .convert import app as convert
from .data_sets import prepare, pretokenize
from .evaluate import app as evaluate
from .generate import generate
from .hub import pull, push
from .info import info
from .linear_probe import linear_probe
from .rate import rate, token_map
from .reconstruct import reconstruct
from .sweep import sweep
from .train import train

app = typer.Typer(
    name="titok-hf",
    help="TiTok: images to a few codes, codes to images, and new images of a class.",
    epilog="Start with: titok-hf generate all",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (generate, reconstruct, encode, decode, info, prepare, pretokenize, train, sweep, push, pull):
    app.command()(report_errors(command))
for command in (linear_probe, rate, token_map):
    evaluate.command()(report_errors(command))
app.add_typer(convert, name="convert")
app.add_typer(evaluate, name="evaluate")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"titok-hf {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    pass
