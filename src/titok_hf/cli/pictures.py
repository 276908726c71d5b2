"""Picture files: reading what the user names, writing what the model makes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile

from PIL import Image

from ..checkpoints.atomic_files import write_atomically

_NAMES_IN_A_FILE_NAME = 3


def check_pictures_exist(paths: Sequence[Path]) -> None:
    """
    Look for all files before anything expensive begins.

    Raises:
        OSError: a path that is missing or a folder.
    """
    for path in paths:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder. Name the pictures in it, for example {path}/*.png.")
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist. Check the path of this picture.")


def check_pictures_are_whole(paths: Sequence[Path]) -> None:
    """
    Open all files to their end, so that a damaged one is found before anything is written.

    Raises:
        OSError: no picture, truncated, or larger than Pillow agrees to open.
    """
    for path in paths:
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise OSError(f"{path} is not a picture that can be read ({error}). Check the file.") from error


def batches(items: Sequence, batch_size: int) -> Iterator[Sequence]:
    """Consecutive slices of at most `batch_size` items."""
    for start in range(0, len(items), batch_size):
        yield items[start : start + batch_size]


def make_output_folder(folder: Path) -> None:
    """
    Make the folder for the results, before the work that would be lost without it.

    Raises:
        OSError: it cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{folder} cannot be written ({error}). Choose another folder with --output.") from error


def check_inputs_stay(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """
    Look whether a result would take the place of what is read.

    Raises:
        OSError: it would.
    """
    read = {path.resolve(): path for path in inputs}
    for output in outputs:
        if output.resolve() in read:
            raise FileExistsError(f"{output} is read, and would be overwritten. Choose another place with --output.")


def sheet_name(what: str, names: Sequence[str]) -> str:
    """
    The file name of a contact sheet, which tells what it shows.

    Args:
        what: "generated", "reconstructed" or "decoded".
        names: of the classes or pictures on it.
    """
    shown = list(names) if len(names) <= _NAMES_IN_A_FILE_NAME else [names[0], f"and {len(names) - 1} more"]
    return "-".join(["contact-sheet", what, *(file_name_of(name)[:60] for name in shown)]) + ".png"


def save_picture(image: Image.Image, path: Path) -> Path:
    """Write one picture; a file of that name is replaced only by a complete one."""
    return write_atomically(path, image.save)


def file_name_of(text: str) -> str:
    """A text as part of a file name: small letters, digits and hyphens ("T-shirt/top" -> "t-shirt-top")."""
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


__all__ = [
    "batches",
    "check_inputs_stay",
    "check_pictures_are_whole",
    "check_pictures_exist",
    "distinct_stems",
    "file_name_of",
    "make_output_folder",
    "save_picture",
    "sheet_name",
]
