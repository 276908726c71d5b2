"""`titok-hf reconstruct`: images encoded and decoded again, with the PSNR of each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ..contact_sheets import paired_contact_sheet
from .console import answer, bold
from .images import (
    batches_with_progress,
    check_images,
    check_inputs_stay,
    distinct_stems,
    make_output_folder,
    save_image,
    sheet_name,
)
from .models import load_pipeline, model_name
from .options import AsJson, BatchSize, Device, Dtype, Engine, Format, Grid, Images, Model, NumTokens

if TYPE_CHECKING:
    import torch
    from PIL import Image

# The contact sheet shows the first forty pairs.
_SHEET_COLUMNS = 8
_SHEET_PAIRS = 40
_TABLE_ROWS = 20


def reconstruct(
    images: Images,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the images.")] = Path("reconstructed"),
    num_tokens: NumTokens = None,
    batch_size: BatchSize = 32,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = "float32",
    engine: Engine = None,
    image_format: Format = "png",
    grid: Grid = True,
    as_json: AsJson = False,
) -> None:
    """
    Turn images into codes and back: one file each, and a contact sheet of originals above reconstructions.

    **Examples**

    `titok-hf reconstruct photo.jpg`

    `titok-hf reconstruct photos/*.png -o out --model user/titok`
    """
    check_images(images)
    stems = distinct_stems(images)
    sheet = output / sheet_name("reconstructed", stems) if grid else None
    results = [output / f"{stem}-reconstructed.{image_format}" for stem in stems]
    check_inputs_stay([*results, *filter(None, [sheet])], images)
    pipe = load_pipeline(model, device, dtype, engine)
    pipe.tokenizer.config.checked_num_tokens(num_tokens)  # before the folder is made
    from titok_hf.evaluation.reconstruction import peak_signal_to_noise_ratio

    make_output_folder(output)
    pairs: list[list[Image.Image]] = []
    psnrs: list[float] = []
    for batch in batches_with_progress(list(zip(images, results, strict=True)), batch_size, "reconstructing"):
        originals = pipe.preprocess([path for path, _ in batch])
        reconstructions = pipe.reconstruct(originals, batch_size=batch_size, num_tokens=num_tokens)
        for (_, result), *pair in zip(
            batch, pipe.image_processor.post_process(originals), reconstructions, strict=True
        ):
            save_image(pair[1], result)
            psnrs.append(peak_signal_to_noise_ratio(*map(_pixel_values, pair)).item())
            if len(pairs) < _SHEET_PAIRS:
                pairs.append(pair)
    if sheet is not None:
        originals, reconstructions = zip(*pairs, strict=True)
        save_image(paired_contact_sheet(originals, reconstructions, _SHEET_COLUMNS), sheet)
    values = {
        "images": [
            {"original": original, "file": file, "psnr": psnr}
            for original, file, psnr in zip(images, results, psnrs, strict=True)
        ],
        "mean_psnr": sum(psnrs) / len(psnrs),
        "contact_sheet": sheet,
        "model": model_name(model),
    }
    summary = f"{len(images)} images in {bold(output)}" + (f"\ncontact sheet: {bold(sheet)}" if sheet else "")
    answer(values, as_json, _table(images, psnrs), summary)


def _table(images: list[Path], psnrs: list[float]) -> Table:
    """The PSNR of each reconstruction, and their mean."""
    table = Table()
    table.add_column("image", overflow="fold")
    table.add_column("PSNR", justify="right")
    for path, psnr in list(zip(images, psnrs, strict=True))[:_TABLE_ROWS]:
        table.add_row(escape(str(path)), f"{psnr:.1f} dB")
    if len(images) > _TABLE_ROWS:
        table.add_row(f"... and {len(images) - _TABLE_ROWS} more", "")
    table.add_section()
    table.add_row("mean", f"{sum(psnrs) / len(psnrs):.1f} dB")
    return table


def _pixel_values(image: Image.Image) -> torch.Tensor:
    """An image of 8 bits as float64 in [0, 1], shape (1, height, width, channels)."""
    import numpy as np
    import torch

    return torch.from_numpy(np.asarray(image)[None] / 255)
