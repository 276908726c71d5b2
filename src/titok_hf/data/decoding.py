"""Decodes the bytes of an image file to an RGB image, or says why it cannot be used."""

import io
import warnings
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from PIL import Image, ImageFile

from ..image_transforms import (
    BACKGROUND,
    MAX_PIXELS,
    NO_BACKGROUND,
    background_colour,
    is_transparent,
    to_rgb,
    upright,
)

# Modes with one possible conversion to RGB. CMYK depends on a profile, and the range of 16-bit values is unknown.
_USUAL_MODES = {"RGB", "L", "P", "RGBA", "1", "LA"}

UnusualModes = Literal["skip", "scale", "published"]


class UnusableImage(ValueError):
    """An example that cannot become part of a data set; the text says why, without the name of the file."""


class Decoded(NamedTuple):
    """An image in RGB; how it was converted if its mode was unusual; whether it had transparent pixels."""

    image: Image.Image
    conversion: str | None = None
    is_transparent: bool = False


@dataclass(frozen=True)
class Decoding:
    """
    How files are read.

    Args:
        exif_transpose: turn images upright as their EXIF orientation says. The original never does.
        fast_jpeg_size: decode JPEGs at the smallest of 1/1, 1/2, 1/4 or 1/8 of their size whose edges are at least
            this long. It is much faster for large photos, and it changes pixels. None: never.
        max_pixels: larger images are unusable.
        unusual_modes: what becomes of CMYK, of 16 bits a channel and of other rare modes. "skip": they are unusable;
            "scale": converted to RGB, 16-bit grey scaled to 8 bits, as `TiTokImageProcessor` does; "published":
            Pillow's `convert("RGB")`, as the original did for ImageNet, which turns 16-bit grey above 255 white and
            drops alpha, so that the colours stored behind transparent pixels appear.
        background: the colour behind transparent pixels, by a name or number of CSS; "none" drops alpha.
    """

    exif_transpose: bool = True
    fast_jpeg_size: int | None = None
    max_pixels: int = MAX_PIXELS
    unusual_modes: UnusualModes = "scale"
    background: str = BACKGROUND

    def __call__(self, content: bytes) -> tuple[Image.Image, str | None]:
        """The first two fields of what `decode` returns."""
        decoded = self.decode(content)
        return decoded.image, decoded.conversion

    def decode(self, content: bytes) -> Decoded:
        """
        Decode one file completely.

        Raises:
            UnusableImage: empty, truncated or damaged files, files that are no images, animations, too many pixels,
                and, with "skip", unusual modes.
        """
        if not content:
            raise UnusableImage("the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about sizes and EXIF, which are handled here
            try:
                return self._decode(content)
            except UnusableImage:
                raise
            # For damaged data, Pillow can raise any exception.
            except Exception as error:
                raise UnusableImage(reason_of(error)) from error

    def _decode(self, content: bytes) -> Decoded:
        image = Image.open(io.BytesIO(content))
        if image.width * image.height > self.max_pixels:
            raise UnusableImage(f"{image.width} x {image.height} pixels are more than {self.max_pixels:,}")
        # The first frame of an MPO file is the photo; others are thumbnails or the image for the other eye.
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":
            raise UnusableImage(f"it has {frames} frames")
        mode = _unusual_mode(image)
        if mode is not None and self.unusual_modes == "skip":
            raise UnusableImage(f"its mode is {mode}")
        if self.fast_jpeg_size is not None and image.format == "JPEG":
            image.draft(None, (self.fast_jpeg_size, self.fast_jpeg_size))
        image.load()
        if self.exif_transpose:
            upright(image, in_place=True)
        conversion = None if mode is None else f"{mode} converted to RGB"
        as_published = self.unusual_modes == "published"
        background = NO_BACKGROUND if as_published else self.background
        rgb = to_rgb(image, background, scale_16_bits=not as_published)
        return Decoded(rgb, conversion, background != NO_BACKGROUND and is_transparent(image))


@dataclass(frozen=True, kw_only=True)
class ReadingSettings:
    """
    How the files of a source are read and grouped; the part that the settings of `prepare` and `pretokenize` share.

    Args:
        exif_transpose, max_pixels, unusual_modes, background: see [`Decoding`].
        shard_size: images of the source in one shard.

    Raises:
        ValueError: a value that is out of range or unknown.
    """

    exif_transpose: bool = True
    max_pixels: int = MAX_PIXELS
    unusual_modes: UnusualModes = "skip"
    background: str = BACKGROUND
    shard_size: int = 10_000

    def __post_init__(self) -> None:
        if self.unusual_modes not in get_args(UnusualModes):
            raise ValueError(
                f"unusual_modes is {self.unusual_modes!r}; it has to be one of {', '.join(get_args(UnusualModes))}."
            )
        background_colour(self.background)
        self.check_at_least_one("max_pixels", "shard_size")

    def check_at_least_one(self, *names: str) -> None:
        """Raises ValueError for a field below 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it has to be at least 1.")

    def decoding(self) -> Decoding:
        """The decoder with these settings."""
        return Decoding(self.exif_transpose, None, self.max_pixels, self.unusual_modes, self.background)


def _unusual_mode(image: ImageFile.ImageFile) -> str | None:
    """The mode of a file that is not loaded yet, or None for the usual modes."""
    if image.mode not in _USUAL_MODES:
        return image.mode
    # Pillow has no mode for 16-bit colours and keeps their higher bytes; only the raw mode of the file shows it.
    is_deep = any(";16" in str(tile[3]) for tile in image.tile)
    return f"{image.mode} of 16 bits" if is_deep else None


def reason_of(error: Exception) -> str:
    """The text of an exception in one line."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is no image that Pillow can read"
    if isinstance(error, Image.DecompressionBombError):
        return "it has too many pixels"
    return " ".join(str(error).split()) or type(error).__name__
