"""`titok-hf encode` and `titok-hf decode`: pictures as a small file of codes."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated

import typer
from rich.panel import Panel

from ..checkpoints.atomic_files import write_atomically
from ..pictures import contact_sheet
from .codes_file import CodesFile
from .console import answer, bold, is_stdout, messages, progress_bar
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
    check_pictures_are_whole(images)
    check_inputs_stay([output], [*images, *_files_of(model)])
    _check_can_be_written(output)
    pipe = load_pipeline(model, device)
    rows = []
    with progress_bar() as bar:
        task = bar.add_task("encoding", total=len(images))
        for batch in batches(images, batch_size):
            rows.append(pipe.encode(batch, batch_size=batch_size).cpu())
            bar.advance(task, len(batch))
    file = CodesFile.of(pipe.tokenizer, rows, [str(path) for path in images], model_name(model))
    write_atomically(output, file.to_bytes())
    and_back = shlex.join(["titok-hf", "decode", str(output), *(["--model", model] if model else [])])
    summary = (
        f"{len(images)} pictures, {file.bytes_per_picture} bytes each, in {bold(output)}\nand back: {bold(and_back)}"
    )
    values = {
        "file": output,
        "model": model_name(model),
        "num_pictures": len(images),
        "bytes_per_picture": file.bytes_per_picture,
    }
    if is_stdout(output):  # the codes went there, and nothing may come between them
        messages.print(summary)
    else:
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
    stems = distinct_stems([Path(name) for name in file.names])
    sheet = output / sheet_name("decoded", stems)
    results = [output / f"{stem}-decoded.png" for stem in stems]
    check_inputs_stay([*results, sheet], [codes])
    make_output_folder(output)
    shown: list[Image.Image] = []
    files: list[Path] = []
    rows = list(zip(results, file.tokens, strict=True))
    with progress_bar() as bar:
        task = bar.add_task("decoding", total=len(rows))
        for batch in batches(rows, batch_size):
            images = pipe.decode([tokens for _, tokens in batch], batch_size=batch_size)
            for (result, _), image in zip(batch, images, strict=True):
                files.append(save_picture(image, result))
            shown += images[: _SHEET_PICTURES - len(shown)]
            bar.advance(task, len(batch))
    save_picture(contact_sheet(shown, columns=min(len(shown), _SHEET_COLUMNS)), sheet)
    summary = f"{len(rows)} pictures in {bold(output)}\nall at a glance: {bold(sheet)}"
    values = {"pictures": files, "contact_sheet": sheet, "model": model_name(model)}
    answer(values, as_json, Panel.fit(summary, title="decoded"))


def _files_of(model: str | None) -> list[Path]:
    """The files of a model on this machine."""
    folder = Path(model or "")
    return [path for path in folder.rglob("*") if path.is_file()] if model is not None and folder.is_dir() else []


def _check_can_be_written(output: Path) -> None:
    """
    Try a place for a file, before the work that would be lost without it.

    Raises:
        OSError: a folder, or a place that refuses to be written.
    """
    try:
        if output.is_dir():
            raise IsADirectoryError("it is a folder")
        if not output.exists() or output.is_file():
            output.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=Path(os.path.realpath(output)).parent):
                pass
    except OSError as error:
        raise OSError(f"{output} cannot be written ({error}). Choose another file with --output.") from error


__all__ = ["decode", "encode"]
