"""Image files of the commands: checks of inputs and outputs before the work, and writing of images and sheets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from rich.panel import Panel

from ..checkpoints.atomic_files import write_atomically
from .console import answer, bold, progress_bar

if TYPE_CHECKING:
    from PIL import Image

_NAMES_IN_A_FILE_NAME = 3
# By suffix: what Pillow needs to know. WebP is lossless, and JPEG keeps the resolution of colours.
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {".webp": {"lossless": True}, ".jpg": {"quality": 95, "subsampling": 0}}


def check_images(paths: Sequence[Path]) -> None:
    """
    Read all files to their end before anything expensive begins.

    Raises:
        OSError: a path is missing or a folder, or a file is no image, truncated, or too large for Pillow.
    """
    from PIL import Image

    for path in paths:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder. Name the images in it, for example {path}/*.png.")
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist. Check the path of this image.")
    for path in paths:
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise OSError(f"{path} is not an image that can be read ({error}). Check the file.") from error


def batches(items: Sequence, batch_size: int) -> Iterator[Sequence]:
    """Consecutive slices of at most `batch_size` items."""
    for start in range(0, len(items), batch_size):
        yield items[start : start + batch_size]


def batches_with_progress(items: Sequence, batch_size: int, activity: str) -> Iterator[Sequence]:
    """The same slices, with a progress bar named `activity` ("decoding")."""
    with progress_bar() as bar:
        task = bar.add_task(activity, total=len(items))
        for batch in batches(items, batch_size):
            yield batch
            bar.advance(task, len(batch))


def make_output_folder(folder: Path) -> None:
    """Make the folder for the results before the work begins; OSError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{folder} cannot be written ({error}). Choose another folder with --output.") from error


def check_inputs_stay(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise OSError if an output would overwrite an input."""
    read = {path.resolve() for path in inputs}
    for output in outputs:
        if output.resolve() in read:
            raise FileExistsError(f"{output} is read, and would be overwritten. Choose another path with --output.")


def check_can_be_written(output: Path) -> None:
    """Check before the work begins that a file can be written; OSError if it cannot."""
    try:
        if output.is_dir():
            raise IsADirectoryError("it is a folder")
        if not output.exists() or output.is_file():
            output.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=Path(os.path.realpath(output)).parent):
                pass
    except OSError as error:
        raise OSError(f"{output} cannot be written ({error}). Choose another file with --output.") from error


def sheet_name(action: str, names: Sequence[str]) -> str:
    """
    The file name of a contact sheet.

    Args:
        action: "generated", "reconstructed" or "decoded".
        names: of the classes or images on it.
    """
    shown = list(names) if len(names) <= _NAMES_IN_A_FILE_NAME else [names[0], f"and {len(names) - 1} more"]
    return "-".join(["contact-sheet", action, *(file_name_of(name)[:60] for name in shown)]) + ".png"


def save_image(image: Image.Image, path: Path) -> Path:
    """Write one image in the format of the suffix. A file of that name is replaced only by a complete one."""
    options = _SAVE_OPTIONS.get(path.suffix, {})
    return write_atomically(path, lambda unfinished: image.save(unfinished, **options))


def save_sheet(images: Sequence[Image.Image], path: Path, columns: int, labels: Sequence[str] | None = None) -> Path:
    """Write a contact sheet, see [`contact_sheet`]."""
    from ..contact_sheets import contact_sheet

    return save_image(contact_sheet(images, columns, labels=labels), path)


def answer_with_images(
    title: str, made: str, output: Path, sheet: Path | None, values: dict[str, Any], as_json: bool
) -> None:
    """Print what was `made`, with its folder and contact sheet, if any; `values` and `as_json` as for [`answer`]."""
    summary = f"{made} in {bold(output)}" + (f"\ncontact sheet: {bold(sheet)}" if sheet else "")
    answer({**values, "contact_sheet": sheet}, as_json, Panel.fit(summary, title=title))


def file_name_of(text: str) -> str:
    """A text as part of a file name: lower-case letters, digits and hyphens ("T-shirt/top" -> "t-shirt-top")."""
    return re.sub(r"[^\w]+", "-", text.casefold()).strip("-") or "class"


def distinct_stems(paths: Sequence[Path]) -> list[str]:
    """The files' names without folder and suffix; repeated ones are numbered ("a", "a-2")."""
    taken: set[str] = set()
    stems = []
    for path in paths:
        stem, number = path.stem, 1
        while stem in taken:
            number += 1
            stem = f"{path.stem}-{number}"
        taken.add(stem)
        stems.append(stem)
    return stems
