"""`titok-hf pretokenize`: any data set of images as a data set of codes."""

from __future__ import annotations

import os
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
from .models import model_location
from .options import AsJson, BatchSize, Device, Model
from .sources import check_model


class Views(Enum):
    """Which squares of an image are encoded."""

    center = "center"
    flip = "flip"
    ten_crop = "ten-crop"
    random = "random"


class CenterCrop(Enum):
    """Names of the square crops."""

    center = "center"
    adm = "adm"


class Precision(Enum):
    """Of weights and activations."""

    fp32 = "fp32"
    bf16 = "bf16"


def pretokenize(
    source: Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new data set.")],
    model: Model = None,
    revision: Annotated[str | None, typer.Option(help="Of a Hub model.")] = None,
    views: Annotated[
        Views, typer.Option(help="Centre; centre and mirror image; ten crops at 1.1 times the size; random crops.")
    ] = Views.center,
    num_views: Annotated[int, typer.Option(min=1, help="Random crops an image.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the random crops.")] = 0,
    min_crop_area: Annotated[float, typer.Option(help="Least share of the image in a random crop.")] = 0.8,
    crop: Annotated[CenterCrop, typer.Option(help="The published evaluation crop, or ADM's.")] = CenterCrop.center,
    exif: Annotated[
        bool, typer.Option("--exif/--ignore-exif", help="Turn images upright. The published transform does not.")
    ] = True,
    image_size: Annotated[int | None, typer.Option("--size", min=1, help="For a MaskGIT-VQGAN; 256 if unset.")] = None,
    precision: Annotated[Precision, typer.Option(help="Of weights and activations.")] = Precision.fp32,
    batch_size: BatchSize = 32,
    device: Device = None,
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
    Turn a data set of images into a data set of codes, in Parquet files that `load_dataset` opens.

    An interrupted run goes on when it is called again, with any number of workers, and of processes under
    `accelerate launch` or `torchrun`.

    **Examples**

    `titok-hf pretokenize photos-256 -o photos-codes`

    `accelerate launch --multi_gpu -m titok_hf.cli pretokenize imagenet -m user/titok-l32 --views ten-crop -o codes`
    """
    check_before_work(source, output, push_to_hub)
    check_model(model, revision)
    if views is not Views.random:
        given = {"--num-views": num_views != 1, "--seed": seed != 0, "--min-crop-area": min_crop_area != 0.8}
        unused = [option for option, differs in given.items() if differs]
        if unused:
            raise ValueError(
                f"{unused[0]} is for random crops, and the views are {views.value!r}. Use --views random."
            )
    from titok_hf.data.encoders import ImageEncoder
    from titok_hf.data.pretokenize import PretokenizeSettings
    from titok_hf.data.pretokenize import pretokenize as pretokenize_split
    from titok_hf.data.sources import silence_loading

    silence_loading()
    encoder = ImageEncoder(
        model_location(model), revision, precision.value, device or _default_device(), batch_size, image_size
    )
    settings = PretokenizeSettings(
        views=views.value.replace("-", "_"),  # type: ignore[arg-type]  # checked by the settings themselves
        num_views=num_views,
        seed=seed,
        min_crop_area=min_crop_area,
        crop=crop.value,
        exif_transpose=exif,
        unusual_modes=unusual_modes.value,
        background=background,
        shard_size=shard_size,
    )
    with progress_bar() as bar:
        task = bar.add_task("encoding", total=limit)
        report = pretokenize_split(
            source,
            output,
            encoder,
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


def _default_device() -> str:
    """The GPU of this process under a launcher, the first GPU without one, the CPU without any."""
    from titok_hf.devices import default_device

    return default_device(local_rank=int(os.environ.get("LOCAL_RANK", 0)))


__all__ = ["pretokenize"]
