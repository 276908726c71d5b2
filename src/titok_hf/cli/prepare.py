"""`titok-hf prepare`: any data set of images as square crops."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import typer

from .data_sets import DataSetOptions, Output, Source, check_before_work, shares_options


@shares_options
def prepare(
    source: Source,
    output: Output,
    image_size: Annotated[int, typer.Option("--size", min=1, help="Height and width of the crops, in pixels.")] = 256,
    crop: Annotated[
        Literal["center", "adm", "none"],
        typer.Option(help="The published evaluation crop, ADM's, or none (for random crops in training)."),
    ] = "center",
    image_format: Annotated[
        Literal["jpeg", "png", "webp"], typer.Option("--format", help="Of the stored images.")
    ] = "jpeg",
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of JPEG and WebP.")] = 95,
    enlarge: Annotated[bool, typer.Option(help="Enlarge small images, or give them black margins.")] = True,
    fast_jpeg: Annotated[
        bool, typer.Option("--fast-jpeg", help="Decode large JPEGs at reduced size: faster, other pixels.")
    ] = False,
    *,
    options: DataSetOptions,
) -> None:
    check_before_work(source, output, options.push_to_hub)
    if image_format == "png" and quality != 95:
        raise ValueError(
            "--quality is for JPEG and WebP, and PNG keeps every pixel. Leave it out, or change --format."
        )
    from titok_hf.data.prepare import PrepareSettings
    from titok_hf.data.prepare import prepare as prepare_split
    from titok_hf.data.sources import silence_loading

    silence_loading()
    settings = PrepareSettings(
        image_size=image_size,
        crop=crop,
        image_format=image_format,
        quality=quality,
        enlarge=enlarge,
        fast_jpeg=fast_jpeg,
        **options.reading(),
    )
    options.make(partial(prepare_split, source, output, settings), output, "preparing")


__all__ = ["prepare"]
