"""`titok-hf encode` and `titok-hf decode`: images to a small file of codes, and back."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.panel import Panel

from ..checkpoints.atomic_files import write_atomically
from .codes_file import CodesFile
from .console import answer, bold, is_stdout, messages
from .images import (
    answer_with_images,
    batches_with_progress,
    check_can_be_written,
    check_images,
    check_inputs_stay,
    distinct_stems,
    make_output_folder,
    save_image,
    save_sheet,
    sheet_name,
)
from .models import load_pipeline, model_name
from .options import AsJson, BatchSize, Device, Dtype, Engine, Format, Grid, Images, Model, NumTokens

if TYPE_CHECKING:
    from PIL import Image

_SHEET_COLUMNS = 8
_SHEET_IMAGES = 80


def encode(
    images: Images,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("codes.safetensors"),
    num_tokens: NumTokens = None,
    batch_size: BatchSize = 32,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = "float32",
    engine: Engine = None,
    as_json: AsJson = False,
) -> None:
    """
    Turn images into codes: one safetensors file with one row for each image, the names of the files and of the model.

    **Example**

    `titok-hf encode photos/*.png -o codes.safetensors`
    """
    check_images(images)
    check_inputs_stay([output], [*images, *_files_of(model)])
    check_can_be_written(output)
    pipe = load_pipeline(model, device, dtype, engine)
    rows = [
        pipe.encode(batch, batch_size=batch_size, num_tokens=num_tokens).cpu()
        for batch in batches_with_progress(images, batch_size, "encoding")
    ]
    file = CodesFile.of(pipe.tokenizer, rows, [str(path) for path in images], model_name(model))
    write_atomically(output, file.to_bytes())
    and_back = shlex.join(["titok-hf", "decode", str(output), *(["--model", model] if model else [])])
    summary = (
        f"{len(images)} images, {file.bytes_per_image} bytes each, in {bold(output)}\nto decode: {bold(and_back)}"
    )
    values = {
        "file": output,
        "model": model_name(model),
        "num_images": len(images),
        "bytes_per_image": file.bytes_per_image,
    }
    if is_stdout(output):  # the codes were written to it, and nothing else may be
        messages.print(summary)
    else:
        answer(values, as_json, Panel.fit(summary, title="encoded"))


def decode(
    codes: Annotated[
        Path, typer.Argument(metavar="CODES", help="A file that `titok-hf encode` wrote.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the images.")] = Path("decoded"),
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
    Turn a file of codes back into images, each as a file, and a contact sheet.

    **Example**

    `titok-hf decode codes.safetensors -o images`
    """
    file = CodesFile.read(codes)
    pipe = load_pipeline(model, device, dtype, engine)
    file.check_belongs_to(pipe.tokenizer)
    stems = distinct_stems([Path(name) for name in file.names])
    sheet = output / sheet_name("decoded", stems) if grid else None
    results = [output / f"{stem}-decoded.{image_format}" for stem in stems]
    check_inputs_stay([*results, *filter(None, [sheet])], [codes])
    make_output_folder(output)
    shown: list[Image.Image] = []
    files: list[Path] = []
    rows = list(zip(results, file.tokens, strict=True))
    for batch in batches_with_progress(rows, batch_size, "decoding"):
        images = pipe.decode([tokens for _, tokens in batch], batch_size=batch_size)
        files += [save_image(image, result) for (result, _), image in zip(batch, images, strict=True)]
        shown += images[: _SHEET_IMAGES - len(shown)]
    if sheet is not None:
        save_sheet(shown, sheet, min(len(shown), _SHEET_COLUMNS))
    values = {"images": files, "model": model_name(model)}
    answer_with_images("decoded", f"{len(rows)} images", output, sheet, values, as_json)


def _files_of(model: str | None) -> list[Path]:
    """The files of a model on this machine."""
    folder = Path(model or "")
    return [path for path in folder.rglob("*") if path.is_file()] if model is not None and folder.is_dir() else []
