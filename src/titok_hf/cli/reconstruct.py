"""`titok-hf reconstruct`: what a model keeps of a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ..pictures import contact_sheet
from .console import answer, bold, progress_bar
from .models import load_pipeline, model_name
from .options import AsJson, BatchSize, Device, Model, Pictures
from .pictures import (
    batches,
    check_inputs_stay,
    check_pictures_are_whole,
    check_pictures_exist,
    distinct_stems,
    make_output_folder,
    save_picture,
    sheet_name,
)

if TYPE_CHECKING:
    from PIL import Image

# Originals stand above their reconstructions; a sheet shows the first forty pairs.
_SHEET_COLUMNS = 8
_SHEET_PAIRS = 40
_TABLE_ROWS = 20


def reconstruct(
    images: Pictures,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("reconstructed"),
    batch_size: BatchSize = 32,
    model: Model = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """
    Turn pictures into codes and back: one PNG file each, and a contact sheet of originals above reconstructions.

    **Examples**

    `titok-hf reconstruct photo.jpg`

    `titok-hf reconstruct pictures/*.png -o out --model user/titok`
    """
    check_pictures_exist(images)
    check_pictures_are_whole(images)
    stems = distinct_stems(images)
    sheet = output / sheet_name("reconstructed", stems)
    results = [output / f"{stem}-reconstructed.png" for stem in stems]
    check_inputs_stay([*results, sheet], images)
    pipe = load_pipeline(model, device)
    make_output_folder(output)
    pairs: list[tuple[Image.Image, Image.Image]] = []
    psnrs: list[float] = []
    written: list[Path] = []
    files = list(zip(images, results, strict=True))
    with progress_bar() as bar:
        task = bar.add_task("reconstructing", total=len(files))
        for batch in batches(files, batch_size):
            originals = pipe.preprocess([path for path, _ in batch])
            for (_, result), original, reconstruction in zip(
                batch,
                pipe.image_processor.post_process(originals),
                pipe.reconstruct(originals, batch_size=batch_size),
                strict=True,
            ):
                written.append(save_picture(reconstruction, result))
                psnrs.append(_psnr(original, reconstruction))
                if len(pairs) < _SHEET_PAIRS:
                    pairs.append((original, reconstruction))
            bar.advance(task, len(batch))
    save_picture(_sheet_of_pairs(pairs), sheet)
    values = {
        "pictures": [
            {"original": original, "file": file, "psnr": psnr}
            for original, file, psnr in zip(images, written, psnrs, strict=True)
        ],
        "mean_psnr": sum(psnrs) / len(psnrs),
        "contact_sheet": sheet,
        "model": model_name(model),
    }
    summary = f"{len(images)} pictures in {bold(output)}\nall at a glance: {bold(sheet)}"
    answer(values, as_json, _table(images, psnrs), summary)


def _table(images: list[Path], psnrs: list[float]) -> Table:
    """How near each reconstruction is to its original, and all of them on average."""
    table = Table()
    table.add_column("picture", overflow="fold")
    table.add_column("PSNR", justify="right")
    for path, psnr in list(zip(images, psnrs, strict=True))[:_TABLE_ROWS]:
        table.add_row(escape(str(path)), f"{psnr:.1f} dB")
    if len(images) > _TABLE_ROWS:
        table.add_row(f"... and {len(images) - _TABLE_ROWS} more", "")
    table.add_section()
    table.add_row("mean", f"{sum(psnrs) / len(psnrs):.1f} dB")
    return table


def _sheet_of_pairs(pairs: list[tuple[Image.Image, Image.Image]]) -> Image.Image:
    """Rows of originals, each with the row of their reconstructions below; the last ones are filled up with white."""
    from PIL import Image

    columns = min(len(pairs), _SHEET_COLUMNS)
    blank = Image.new("RGB", pairs[0][0].size, "white")
    cells, labels = [], []
    for row in batches(pairs, columns):
        filling = [blank] * (columns - len(row))
        cells += [original for original, _ in row] + filling + [copy for _, copy in row] + filling
        labels += ["original", "TiTok"]
    return contact_sheet(cells, columns=columns, labels=labels)


def _psnr(original: Image.Image, reconstruction: Image.Image) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures, in dB; infinite for equal ones."""
    import numpy as np

    difference = np.asarray(original, dtype=np.float64) - np.asarray(reconstruction, dtype=np.float64)
    mean_squared_error = float(np.square(difference).mean())
    return 10 * math.log10(255**2 / mean_squared_error) if mean_squared_error else math.inf


__all__ = ["reconstruct"]
