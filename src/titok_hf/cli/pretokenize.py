"""`titok-hf pretokenize`: any data set of images as a data set of codes."""

from __future__ import annotations

import os
from functools import partial
from typing import Annotated, Literal

import typer

from .data_sets import DataSetOptions, Output, Source, check_before_work, shares_options
from .models import model_location
from .options import BatchSize, Device, Model
from .sources import check_model


@shares_options
def pretokenize(
    source: Source,
    output: Output,
    model: Model = None,
    revision: Annotated[str | None, typer.Option(help="Of a Hub model.")] = None,
    views: Annotated[
        Literal["center", "flip", "ten-crop", "random"],
        typer.Option(help="Centre; centre and mirror image; ten crops at 1.1 times the size; random crops."),
    ] = "center",
    num_views: Annotated[int, typer.Option(min=1, help="Random crops per image.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the random crops.")] = 0,
    min_crop_area: Annotated[float, typer.Option(help="Least share of the image in a random crop.")] = 0.8,
    crop: Annotated[
        Literal["center", "adm"], typer.Option(help="The published evaluation crop, or ADM's.")
    ] = "center",
    image_size: Annotated[int | None, typer.Option("--size", min=1, help="For a MaskGIT-VQGAN; 256 if unset.")] = None,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="Of weights and activations.")] = "fp32",
    batch_size: BatchSize = 32,
    device: Device = None,
    *,
    options: DataSetOptions,
) -> None:
    check_before_work(source, output, options.push_to_hub)
    check_model(model, revision)
    random_options = {"--num-views": num_views != 1, "--seed": seed != 0, "--min-crop-area": min_crop_area != 0.8}
    unused = [option for option, is_given in random_options.items() if is_given]
    if views != "random" and unused:
        raise ValueError(f"{unused[0]} is for random crops, and the views are {views!r}. Use --views random.")
    from titok_hf.data.encoders import ImageEncoder
    from titok_hf.data.pretokenize import PretokenizeSettings
    from titok_hf.data.pretokenize import pretokenize as pretokenize_split
    from titok_hf.data.sources import silence_loading

    silence_loading()
    location = model_location(model)
    encoder = ImageEncoder(location, revision, precision, device or _default_device(), batch_size, image_size)
    settings = PretokenizeSettings(
        views=views.replace("-", "_"),  # type: ignore[arg-type]  # checked by the settings themselves
        num_views=num_views,
        seed=seed,
        min_crop_area=min_crop_area,
        crop=crop,
        **options.reading(),
    )
    options.make(partial(pretokenize_split, source, output, encoder, settings), output, "encoding")


def _default_device() -> str:
    """The GPU of this process under a launcher, the first GPU without one, the CPU without any."""
    from titok_hf.devices import default_device

    return default_device(local_rank=int(os.environ.get("LOCAL_RANK", 0)))


__all__ = ["pretokenize"]
