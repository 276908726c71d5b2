"""`titok-hf encode` and `titok-hf decode`: pictures as a small file of codes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.panel import Panel

from ..atomic_files import write_atomically
from ..pictures import contact_sheet
from .codes_file import CodesFile
from .console import answer, bold, progress_bar
from .models import load_pipeline, model_name
from .options import AsJson, BatchSize, Device, Model, Pictures
from .pictures import (
    CONTACT_SHEET,
    batches,
    check_pictures_exist,
    distinct_stems,
    make_output_folder,
    save_picture,
)

if TYPE_CHECKING:
    from PIL import Image

_SHEET_COLUMNS = 8
_SHEET_PICTURES = 80


def encode(
    images: Pictures,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("codes.safetensors"),
    batch_size: BatchSize = 32,
    model: Model = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """
    Turn pictures into codes: one safetensors file with a row a picture, the files' names and the model's.

    **Example**

    `titok-hf encode pictures/*.png -o codes.safetensors`
    """
    check_pictures_exist(images)
    pipe = load_pipeline(model, device)
    rows = []
    with progress_bar() as bar:
        task = bar.add_task("encoding", total=len(images))
        for batch in batches(images, batch_size):
            rows.append(pipe.encode(batch, batch_size=batch_size).cpu())
            bar.advance(task, len(batch))
    file = CodesFile.of(pipe.tokenizer, rows, [str(path) for path in images], model_name(model))
    try:
        write_atomically(output, file.to_bytes())
    except OSError as error:
        raise OSError(f"{output} cannot be written ({error}). Choose another file with --output.") from error
    and_back = f"titok-hf decode {output}" + (f" --model {model}" if model else "")
    summary = (
        f"{len(images)} pictures, {file.bytes_per_picture} bytes each, in {bold(output)}\nand back: {bold(and_back)}"
    )
    values = {
        "file": output,
        "model": model_name(model),
        "num_pictures": len(images),
        "bytes_per_picture": file.bytes_per_picture,
    }
    answer(values, as_json, Panel.fit(summary, title="encoded"))


def decode(
    codes: Annotated[
        Path, typer.Argument(metavar="CODES", help="A file that `titok-hf encode` wrote.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("decoded"),
    batch_size: BatchSize = 32,
    model: Model = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """
    Turn a file of codes back into pictures, each as a PNG file, and a contact sheet.

    **Example**

    `titok-hf decode codes.safetensors -o pictures`
    """
    file = CodesFile.read(codes)
    pipe = load_pipeline(model, device)
    file.check_belongs_to(pipe.tokenizer)
    make_output_folder(output)
    shown: list[Image.Image] = []
    files: list[Path] = []
    rows = list(zip(distinct_stems([Path(name) for name in file.names]), file.tokens, strict=True))
    with progress_bar() as bar:
        task = bar.add_task("decoding", total=len(rows))
        for batch in batches(rows, batch_size):
            images = pipe.decode([tokens for _, tokens in batch], batch_size=batch_size)
            for (stem, _), image in zip(batch, images, strict=True):
                files.append(save_picture(image, output / f"{stem}-decoded.png"))
            shown += images[: _SHEET_PICTURES - len(shown)]
            bar.advance(task, len(batch))
    sheet = contact_sheet(shown, columns=min(len(shown), _SHEET_COLUMNS))
    save_picture(sheet, output / CONTACT_SHEET)
    summary = f"{len(rows)} pictures in {bold(output)}\nall at a glance: {bold(output / CONTACT_SHEET)}"
    values = {"pictures": files, "contact_sheet": output / CONTACT_SHEET, "model": model_name(model)}
    answer(values, as_json, Panel.fit(summary, title="decoded"))


__all__ = ["decode", "encode"]
