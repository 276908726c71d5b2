"""The published image transforms as plain functions on Pillow images: no torch, so that a worker starts in no time.

Rounding follows the original to the pixel. Each function says where; tests compare the results bit for bit.
"""

import random
from typing import Literal

import numpy as np
from PIL import Image

from ..picture_rules import BACKGROUND, background_colour, is_transparent, laid_on

# "resize": the shorter edge becomes the side of the square; "pad": the pixels stay and lie in the middle of black.
ResizeMode = Literal["resize", "pad"]

# Of an image this many times as long as it is short, only the middle section is resized: one row of 100,000 pixels
# would otherwise become 256 x 25,600,000. TiTokImageProcessor draws the same line.
MAX_ASPECT_RATIO = 32

# Enlargement of the ten-crop over the size of its crops, as in published pretokenisation for generators.
TEN_CROP_ENLARGEMENT = 1.1


def to_rgb(image: Image.Image, saturate: bool = False, background: str = BACKGROUND) -> Image.Image:
    """
    An image of any mode in RGB; CMYK is converted as Pillow does it.

    Args:
        saturate: leave 16-bit grey to Pillow's `convert("RGB")` as the original does, which turns all above 255 white;
            else it is scaled to 8 bits.
        background: the colour behind transparent pixels; "none" drops alpha, as the original does.

    Raises:
        ValueError: a mode that has no RGB, or, to be scaled, 16-bit samples outside of [0, 65535].
    """
    if not saturate and (image.mode.startswith("I") or image.mode == "F"):
        full_scale = 255 if image.mode == "F" else 65535
        values = np.asarray(image, dtype=np.float64)
        if not (values.min() >= 0 and values.max() <= full_scale):  # so written, it catches NaN too
            raise ValueError(f"samples from {values.min()} to {values.max()}; expected 0 to {full_scale}")
        image = Image.fromarray(np.rint(values * (255 / full_scale)).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the way round about Pillow's warning; the colours are the same
    colour = background_colour(background)
    if colour is not None and is_transparent(image):
        return laid_on(image, colour)
    return image if image.mode == "RGB" else image.convert("RGB")


def resize_shorter_edge(image: Image.Image, size: int) -> Image.Image:
    """Bicubic, antialiased; the longer edge is truncated to whole pixels, as in the original's evaluation."""
    image = _trim_long_edge(image)
    short, long = sorted(image.size)
    longer = int(size * long / short)
    new_size = (size, longer) if image.width <= image.height else (longer, size)
    return image if image.size == new_size else image.resize(new_size, Image.Resampling.BICUBIC)


def crop_center(image: Image.Image, size: int) -> Image.Image:
    """The middle square; half pixels go to the even side (Python's `round`), as in the original's evaluation."""
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def center_square(image: Image.Image, size: int) -> Image.Image:
    """The original's evaluation transform: `resize_shorter_edge`, then `crop_center`."""
    return crop_center(resize_shorter_edge(image, size), size)


def adm_center_square(image: Image.Image, size: int) -> Image.Image:
    """
    The crop of ADM (arXiv 2105.05233): halve with a box filter while the shorter edge is at least twice `size`, then
    bicubic with rounded sizes, then the middle square with floored offsets.
    """
    image = _trim_long_edge(image)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def ten_crop(image: Image.Image, size: int) -> list[Image.Image]:
    """
    Corners and centre of the ADM square at 1.1 times `size`, then the same five of the mirrored square.

    Returns:
        ten squares: top left, top right, bottom left, bottom right, centre; mirrored, in the same order.
    """
    enlarged = adm_center_square(image, int(size * TEN_CROP_ENLARGEMENT))
    return _five_crop(enlarged, size) + _five_crop(mirror(enlarged), size)


def random_square(image: Image.Image, size: int, chance: random.Random) -> Image.Image:
    """The paper's augmentation: `resize_shorter_edge`, then a square at a random place."""
    image = resize_shorter_edge(image, size)
    left, top = _below(image.width - size + 1, chance), _below(image.height - size + 1, chance)
    return image.crop((left, top, left + size, top + size))


def random_resized_square(
    image: Image.Image, size: int, chance: random.Random, min_area: float = 0.8, max_ratio: float = 4 / 3
) -> Image.Image:
    """
    A random section, resized to a square with a bicubic filter (the crop of arXiv 1409.4842).

    Args:
        min_area: the section's share of the image is uniform in [min_area, 1].
        max_ratio: width / height of the section is log-uniform in [1 / max_ratio, max_ratio].
        chance: the source of all randomness; only its `random()` is called, whose stream Python guarantees.
    """
    for _ in range(10):
        area = image.width * image.height * (min_area + (1 - min_area) * chance.random())
        ratio = max_ratio ** (2 * chance.random() - 1)
        width, height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < width <= image.width and 0 < height <= image.height:
            left, top = _below(image.width - width + 1, chance), _below(image.height - height + 1, chance)
            box = (left, top, left + width, top + height)
            return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return center_square(image, size)  # of a thin image no such section is likely to fit


def mirror(image: Image.Image) -> Image.Image:
    """Left and right exchanged."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def center_on_black(image: Image.Image, size: int) -> Image.Image:
    """The image with its own pixels, in the middle of black where an edge is below `size`; larger edges stay."""
    if min(image.size) >= size:
        return image
    width, height = max(size, image.width), max(size, image.height)
    canvas = Image.new(image.mode, (width, height))
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return canvas


def pad_to_square(image: Image.Image, size: int) -> Image.Image:
    """
    The image with its own pixels, in the middle of a black square.

    Raises:
        ValueError: an edge is longer than `size`.
    """
    if max(image.size) > size:
        raise ValueError(
            f"An image of {image.width} x {image.height} pixels does not fit into {size} x {size}. "
            "Use resize_mode='resize', or a larger image_size."
        )
    return center_on_black(image, size)


def check_resize_mode(mode: str) -> None:
    """Raises ValueError for anything but a `ResizeMode`."""
    if mode not in ("resize", "pad"):
        raise ValueError(f"resize_mode is {mode!r}; it has to be 'resize' or 'pad'.")


def _five_crop(image: Image.Image, size: int) -> list[Image.Image]:
    right, bottom = image.width - size, image.height - size
    corners = [(0, 0), (right, 0), (0, bottom), (right, bottom)]
    squares = [image.crop((left, top, left + size, top + size)) for left, top in corners]
    return [*squares, crop_center(image, size)]


def _trim_long_edge(image: Image.Image) -> Image.Image:
    limit = MAX_ASPECT_RATIO * min(image.size)
    if max(image.size) <= limit:
        return image
    left, top = max(0, (image.width - limit) // 2), max(0, (image.height - limit) // 2)
    return image.crop((left, top, image.width - left, image.height - top))


def _below(limit: int, chance: random.Random) -> int:
    """A whole number in [0, limit)."""
    return int(chance.random() * limit)


__all__ = [
    "MAX_ASPECT_RATIO",
    "ResizeMode",
    "TEN_CROP_ENLARGEMENT",
    "adm_center_square",
    "center_on_black",
    "center_square",
    "check_resize_mode",
    "crop_center",
    "mirror",
    "pad_to_square",
    "random_resized_square",
    "random_square",
    "resize_shorter_edge",
    "ten_crop",
    "to_rgb",
]
