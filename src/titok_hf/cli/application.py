"""The commands of `titok-hf`, put together. Each is imported when it is used."""

from typing import Annotated

import typer

from .. import __version__
from .lazy_group import Entry, lazy_group

COMMANDS = {
    "generate": Entry("Generate images of classes.", ".generate", "generate"),
    "edit": Entry("Vary, inpaint or interpolate images, or change their class.", ".edit", "app"),
    "reconstruct": Entry("Encode and decode images, and measure what was lost.", ".reconstruct", "reconstruct"),
    "encode": Entry("Encode images to a file of codes.", ".codes", "encode"),
    "decode": Entry("Decode a file of codes to images.", ".codes", "decode"),
    "info": Entry("Show a model's sizes, classes, settings and measured numbers.", ".info", "info"),
    "export": Entry("Export a model to ONNX Runtime, OpenVINO or ExecuTorch.", ".export", "export"),
    "prepare": Entry("Make a data set of square crops from any data set of images.", ".data_sets", "prepare"),
    "pretokenize": Entry("Make a data set of codes from any data set of images.", ".data_sets", "pretokenize"),
    "train": Entry("Train a tokenizer or a generator, or resume a run.", ".train", "train"),
    "evaluate": Entry("Measure tokenizers, generators and files of images.", ".evaluate_group", "app"),
    "sweep": Entry("Measure settings of the sampler, and find the best one.", ".sweep", "sweep"),
    "serve": Entry("Start a web page to play with models.", ".serve", "serve"),
    "convert": Entry("Convert checkpoints of the original implementation, and back.", ".convert", "app"),
    "push": Entry("Upload a model or a data set to the Hub.", ".hub", "push"),
    "pull": Entry("Download a model or a data set from the Hub.", ".hub", "pull"),
}

app = typer.Typer(
    name="titok-hf",
    cls=lazy_group(COMMANDS),
    help="TiTok: images to a few codes, codes to images, and new images of a class.",
    epilog="Start with: titok-hf generate all",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text, which takes less than half the time: rich is not imported
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"titok-hf {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass
