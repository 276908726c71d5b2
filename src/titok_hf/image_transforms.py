"""
Image transforms of the image processors and of the data sets, with Pillow and NumPy alone: without torch, a worker
process starts quickly. Rounding is that of the original implementation; tests compare the results bit for bit.
"""

import random
from typing import Literal

import numpy as np
from PIL import Image, ImageColor, ImageOps

# Left, top, right and bottom edge in pixels, as `Image.crop` takes them.
Box = tuple[int, int, int, int]

# "resize": the shorter edge is resized to the size of the crop; "pad": pixels are kept and centred on black.
ResizeMode = Literal["resize", "pad"]

# Above this size Pillow warns of a decompression bomb.
MAX_PIXELS = 89_478_485

# Of an image with a larger aspect ratio only the middle is resized: 100,000 x 1 pixels would become 25,600,000 x 256.
MAX_ASPECT_RATIO = 32

# The colour behind transparent pixels.
BACKGROUND = "white"
NO_BACKGROUND = "none"

# Enlargement of the ten-crop relative to its crops, as in published pretokenisation for generators.
TEN_CROP_ENLARGEMENT = 1.1


def background_colour(background: str) -> tuple[int, int, int] | None:
    """Red, green and blue in [0, 255] of a CSS colour; None for "none"; ValueError for anything else."""
    if background == NO_BACKGROUND:
        return None
    try:
        red, green, blue = ImageColor.getrgb(background)[:3]
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f'background is {background!r}; it has to be a colour, such as "white" or "#00ff00", or "{NO_BACKGROUND}".'
        ) from error
    return red, green, blue


def upright(image: Image.Image, in_place: bool = False) -> Image.Image:
    """The image (if `in_place`, itself, not a copy) rotated as its EXIF block says; a damaged block is ignored."""
    try:
        if in_place:
            ImageOps.exif_transpose(image, in_place=True)
            return image
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # Pillow raises many kinds of errors for a damaged block, SyntaxError among them
        return image


def is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is transparent, in full or in part."""
    if not image.has_transparency_data:
        return False
    least, _ = _with_alpha(image).getchannel("A").getextrema()
    return least != 255


def to_rgb(image: Image.Image, background: str = BACKGROUND, scale_16_bits: bool = True) -> Image.Image:
    """
    An image of any mode in RGB; CMYK is converted as Pillow does it.

    Args:
        background: the colour behind transparent pixels; "none" drops alpha, as the original does.
        scale_16_bits: scale 16-bit grey to 8 bits. If not, Pillow's `convert("RGB")` makes all values above 255 white,
            as in the original.

    Raises:
        ValueError: a mode that cannot be converted, or samples outside of the range of their type.
    """
    colour = background_colour(background)
    if scale_16_bits and has_deep_samples(image):
        image = Image.fromarray(to_8_bits(image))
    try:
        if colour is not None and is_transparent(image):
            image = _with_alpha(image)
            canvas = Image.new("RGB", image.size, colour)
            canvas.paste(image, mask=image.getchannel("A"))
            return canvas
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # without this step Pillow warns; the colours are the same
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise ValueError(f"Pillow cannot convert an image of mode {image.mode!r} to RGB: {error}") from error


def has_deep_samples(image: Image.Image) -> bool:
    """Whether samples are floats or integers of more than 8 bits, which Pillow's conversion to RGB clips at 255."""
    return image.mode.startswith("I") or image.mode == "F"


def to_8_bits(image: Image.Image) -> np.ndarray:
    """The samples of a PIL image as uint8; black and white, 16 bits and floats are scaled to [0, 255]."""
    values = np.array(image)
    deep_scale = 65535 if image.mode.startswith("I") else 255
    return scale_to_8_bits(values, 1 if values.dtype == bool else deep_scale)


def scale_to_8_bits(values: np.ndarray, full_scale: int) -> np.ndarray:
    """Scales values in [0, full_scale] to [0, 255] and rounds them to uint8; ValueError for values outside."""
    if values.dtype == np.uint8:
        return values
    if values.size:
        lowest, highest = values.min(), values.max()
        if not (lowest >= 0 and highest <= full_scale):  # so written, it catches NaN too
            raise ValueError(
                f"Got an image of dtype {values.dtype} with values from {lowest} to {highest}; "
                f"expected 0 to {full_scale}. Rescale or clip it first."
            )
    if full_scale == 255 and values.dtype.kind in "iu":
        return values.astype(np.uint8)
    return np.rint(values.astype(np.float64) * (255 / full_scale)).astype(np.uint8)


def center_box(width: int, height: int, crop_width: int, crop_height: int) -> Box:
    """The box of a centre crop; half pixels are rounded to even (Python's `round`), as in the original evaluation."""
    left, top = round((width - crop_width) / 2), round((height - crop_height) / 2)
    return left, top, left + crop_width, top + crop_height


def box_within_aspect_limit(width: int, height: int) -> Box:
    """The middle section of an image, at most `MAX_ASPECT_RATIO` times as long as it is short."""
    limit = MAX_ASPECT_RATIO * min(width, height)
    left, top = max(0, (width - limit) // 2), max(0, (height - limit) // 2)
    return left, top, width - left, height - top


def black_margins(width: int, height: int, size: int) -> Box:
    """Pixels to add at the left, top, right and bottom so that both edges are at least `size`."""
    columns, rows = max(0, size - width), max(0, size - height)
    return columns // 2, rows // 2, columns - columns // 2, rows - rows // 2


def resize_shorter_edge(image: Image.Image, size: int) -> Image.Image:
    """Bicubic, antialiased; the longer edge is rounded down, as in the original's evaluation."""
    image = _within_aspect_limit(image)
    short, long = sorted(image.size)
    longer = int(size * long / short)
    new_size = (size, longer) if image.width <= image.height else (longer, size)
    return image if image.size == new_size else image.resize(new_size, Image.Resampling.BICUBIC)


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The original's evaluation transform: `resize_shorter_edge`, then the crop of `center_box`."""
    image = resize_shorter_edge(image, size)
    return image.crop(center_box(*image.size, size, size))


def adm_center_crop(image: Image.Image, size: int) -> Image.Image:
    """
    The crop of ADM (arXiv 2105.05233): halve with a box filter while the shorter edge is at least twice `size`, then
    bicubic with rounded sizes, then a centre crop with floored offsets.
    """
    image = _within_aspect_limit(image)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    return _crop(image, (image.width - size) // 2, (image.height - size) // 2, size)


def ten_crop(image: Image.Image, size: int) -> list[Image.Image]:
    """
    Ten crops of the ADM crop at 1.1 times `size`: top left, top right, bottom left, bottom right, centre; then the
    same of its mirror image.
    """
    enlarged = adm_center_crop(image, int(size * TEN_CROP_ENLARGEMENT))
    end = enlarged.width - size
    centre = center_box(*enlarged.size, size, size)[0]
    offsets = [(0, 0), (end, 0), (0, end), (end, end), (centre, centre)]
    return [_crop(half, left, top, size) for half in (enlarged, mirror(enlarged)) for left, top in offsets]


def random_crop(image: Image.Image, size: int, rng: random.Random) -> Image.Image:
    """The paper's augmentation: `resize_shorter_edge`, then a crop at a random position."""
    image = resize_shorter_edge(image, size)
    return _crop(image, *_random_offsets(image.width - size, image.height - size, rng), size)


def random_resized_crop(
    image: Image.Image, size: int, rng: random.Random, min_area: float = 0.8, max_ratio: float = 4 / 3
) -> Image.Image:
    """
    A random section, resized to `size` x `size` with a bicubic filter (the crop of arXiv 1409.4842).

    Args:
        min_area: the section's share of the image is uniform in [min_area, 1].
        max_ratio: width / height of the section is log-uniform in [1 / max_ratio, max_ratio].
        rng: the only source of randomness; only its `random()` is called, whose stream Python guarantees.
    """
    for _ in range(10):
        area = image.width * image.height * (min_area + (1 - min_area) * rng.random())
        ratio = max_ratio ** (2 * rng.random() - 1)
        width, height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < width <= image.width and 0 < height <= image.height:
            left, top = _random_offsets(image.width - width, image.height - height, rng)
            box = (left, top, left + width, top + height)
            return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return center_crop(image, size)  # in an image of a large aspect ratio


mirror = ImageOps.mirror


def center_on_black(image: Image.Image, size: int) -> Image.Image:
    """The image, not resized, with black margins where an edge is below `size`."""
    left, top, right, bottom = black_margins(*image.size, size)
    if not any((left, top, right, bottom)):
        return image
    canvas = Image.new(image.mode, (image.width + left + right, image.height + top + bottom))
    canvas.paste(image, (left, top))
    return canvas


def pad(image: Image.Image, size: int) -> Image.Image:
    """The image, not resized, centred on `size` x `size` black pixels; ValueError if an edge is longer."""
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


def _with_alpha(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGBA" else image.convert("RGBA")


def _within_aspect_limit(image: Image.Image) -> Image.Image:
    box = box_within_aspect_limit(*image.size)
    return image if box == (0, 0, *image.size) else image.crop(box)


def _crop(image: Image.Image, left: int, top: int, size: int) -> Image.Image:
    return image.crop((left, top, left + size, top + size))


def _random_offsets(spare_width: int, spare_height: int, rng: random.Random) -> tuple[int, int]:
    """Whole numbers in [0, spare_width] and [0, spare_height]."""
    left = int(rng.random() * (spare_width + 1))
    return left, int(rng.random() * (spare_height + 1))
