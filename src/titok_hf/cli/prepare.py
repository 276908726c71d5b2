"""`titok-hf prepare`: any data set of images as square crops."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .console import progress_bar
from .data_sets import (
    Background,
    ConfigName,
    ImageColumn,
    LabelColumn,
    Limit,
    OnError,
    OnErrorChoice,
    PartOption,
    PushTo,
    Source,
    Split,
    Streaming,
    UnusualModes,
    UnusualModesChoice,
    Workers,
    check_before_work,
    check_rows,
    part_of,
    push_if_complete,
    show_report,
)
from .options import AsJson


class Crop(Enum):
    """Names of the crops."""

    center = "center"
    adm = "adm"
    none = "none"


class ImageFormat(Enum):
    """Formats of the stored images."""

    jpeg = "jpeg"
    png = "png"
    webp = "webp"


def prepare(
    source: Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new data set.")],
    image_size: Annotated[int, typer.Option("--size", min=1, help="Side of the squares, in pixels.")] = 256,
    crop: Annotated[
        Crop, typer.Option(help="The published evaluation crop, ADM's, or none (for random crops in training).")
    ] = Crop.center,
    image_format: Annotated[ImageFormat, typer.Option("--format", help="Of the stored images.")] = ImageFormat.jpeg,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of JPEG and WebP.")] = 95,
    enlarge: Annotated[bool, typer.Option(help="Enlarge small images, or lay them on black.")] = True,
    exif: Annotated[
        bool, typer.Option("--exif/--ignore-exif", help="Turn images upright. The published transform does not.")
    ] = True,
    fast_jpeg: Annotated[
        bool, typer.Option("--fast-jpeg", help="Decode large JPEGs at reduced size: faster, other pixels.")
    ] = False,
    unusual_modes: UnusualModes = UnusualModesChoice.skip,
    background: Background = "white",
    split: Split = "train",
    config_name: ConfigName = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    limit: Limit = None,
    streaming: Streaming = False,
    shard_size: Annotated[int, typer.Option(min=1, help="Images of the source in one shard.")] = 10_000,
    workers: Workers = None,
    part: PartOption = None,
    on_error: OnError = OnErrorChoice.skip,
    push_to_hub: PushTo = None,
    as_json: AsJson = False,
) -> None:
    """
    Turn a data set of images into square crops, in Parquet files that `load_dataset` opens.

    An interrupted run goes on when it is called again.

    **Examples**

    `titok-hf prepare photos/ -o photos-256`

    `titok-hf prepare ILSVRC/imagenet-1k --streaming --ignore-exif --unusual-modes published --crop none -o images`
    """
    check_before_work(source, output, push_to_hub)
    if image_format is ImageFormat.png and quality != 95:
        raise ValueError(
            "--quality is for JPEG and WebP, and PNG keeps every pixel. Leave it out, or change --format."
        )
    from titok_hf.data.prepare import PrepareSettings
    from titok_hf.data.prepare import prepare as prepare_split
    from titok_hf.data.sources import silence_loading

    silence_loading()
    settings = PrepareSettings(
        image_size=image_size,
        crop=crop.value,
        image_format=image_format.value,
        quality=quality,
        enlarge=enlarge,
        exif_transpose=exif,
        fast_jpeg=fast_jpeg,
        unusual_modes=unusual_modes.value,
        background=background,
        shard_size=shard_size,
    )
    with progress_bar() as bar:
        task = bar.add_task("preparing", total=limit)
        report = prepare_split(
            source,
            output,
            settings,
            split=split,
            config_name=config_name,
            image_column=image_column,
            label_column=label_column,
            limit=limit,
            streaming=streaming,
            workers=workers,
            part=part_of(part),
            on_error=on_error.value,
            progress=lambda num_images: bar.advance(task, num_images),
        )
    check_rows(report, output, split)
    show_report(report, output, split, push_if_complete(output, split, push_to_hub), as_json)


__all__ = ["prepare"]
