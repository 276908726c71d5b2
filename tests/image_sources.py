"""Small sources of images for the tests of data sets, and what compares two data sets."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("bag", "coat", "shirt")


def picture(number: int) -> Image.Image:
    """Soft patches of colour, which models tell apart, in a size that depends on the number."""
    patches = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((36 + number % 11, 40 + number % 7), Image.Resampling.BICUBIC)


def image_folder(folder: Path, num_images: int, broken: tuple[int, ...] = ()) -> Path:
    """PNG files in a folder a class, in the order of their numbers; those in `broken` are text."""
    for number in range(num_images):
        label = number * len(CLASSES) // num_images
        path = folder / CLASSES[label] / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number in broken:
            path.write_text("no picture")
        else:
            picture(number).save(path, compress_level=1)
    return folder


def encoded(number: int) -> dict:
    """One picture as `datasets` stores it."""
    stream = BytesIO()
    picture(number).save(stream, "PNG", compress_level=1)
    return {"bytes": stream.getvalue(), "path": f"{number:04d}.png"}


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a data set."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
