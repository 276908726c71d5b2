"""What a worker of `prepare` does to an image: decode, crop, encode. Needs neither torch nor `datasets`."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from PIL import Image as PILImage

from .. import image_transforms as transforms
from ..image_transforms import BACKGROUND, background_colour
from .decoding import MAX_PIXELS, Decoding, UnusualModes, check_unusual_modes
from .records import SOURCE_INDEX, ChunkConverter, Record

Crop = Literal["center", "adm", "none"]
ImageFormat = Literal["jpeg", "png", "webp"]

CROPS: dict[str, Callable[[PILImage.Image, int], PILImage.Image]] = {
    "center": transforms.center_crop,
    "adm": transforms.adm_center_crop,
    "none": transforms.resize_shorter_edge,
}
_SUFFIXES = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}


@dataclass(frozen=True)
class PrepareSettings:
    """
    What the images become.

    Args:
        image_size: length of the shorter edge, and of the square, in pixels.
        crop: "center", the original's evaluation crop; "adm", the crop of ADM; "none", resized but uncropped, which
            leaves training its random crops.
        image_format: of the stored images.
        quality: 1 to 100; for JPEG and WebP. PNG is lossless.
        enlarge: whether images below `image_size` are enlarged; if not, they keep their pixels, on black.
        exif_transpose: turn images upright as their EXIF orientation says; the original never does.
        fast_jpeg: decode large JPEGs at a fraction of their size. Faster, but pixels differ from the published
            transform.
        max_pixels: larger images are left out.
        unusual_modes: "skip" leaves out CMYK and 16-bit files, "scale" converts them, "published" does so as the
            original did; see `Decoding`.
        background: the colour behind transparent pixels; "none" drops alpha as the original did, and so does
            unusual_modes="published".
        shard_size: images of the source in one shard.

    Raises:
        ValueError: a value that is out of range or unknown.
    """

    image_size: int = 256
    crop: Crop = "center"
    image_format: ImageFormat = "jpeg"
    quality: int = 95
    enlarge: bool = True
    exif_transpose: bool = True
    fast_jpeg: bool = False
    max_pixels: int = MAX_PIXELS
    unusual_modes: UnusualModes = "skip"
    background: str = BACKGROUND
    shard_size: int = 10_000

    def __post_init__(self) -> None:
        check_unusual_modes(self.unusual_modes)
        background_colour(self.background)
        for name, known in (("crop", CROPS), ("image_format", _SUFFIXES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it has to be one of {', '.join(known)}.")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality is {self.quality}; it has to lie between 1 and 100.")
        for name in ("image_size", "max_pixels", "shard_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it has to be at least 1.")


@dataclass(frozen=True)
class ImageConverter(ChunkConverter):
    """Decodes, crops and encodes; what a worker of `prepare` does."""

    settings: PrepareSettings

    def decoding(self) -> Decoding:
        settings = self.settings
        fast_jpeg_size = settings.image_size if settings.fast_jpeg else None
        return Decoding(
            settings.exif_transpose, fast_jpeg_size, settings.max_pixels, settings.unusual_modes, settings.background
        )

    def prepare_image(self, image: PILImage.Image, record: Record) -> dict[str, Any]:
        """The stored form of one image: `{"bytes": ..., "path": ...}`."""
        settings = self.settings
        if not settings.enlarge:
            image = transforms.center_on_black(image, settings.image_size)
        image = CROPS[settings.crop](image, settings.image_size)
        return {"bytes": self._encode(image), "path": _file_name(record.path, settings.image_format)}

    def columns_of(self, usable: list[tuple[Record, int | None, dict[str, Any]]]) -> dict[str, list]:
        columns: dict[str, list] = {"image": [image for _, _, image in usable]}
        if self.has_labels:
            columns["label"] = [label for _, label, _ in usable]
        columns[SOURCE_INDEX] = [record.source_index for record, _, _ in usable]
        return columns

    def _encode(self, image: PILImage.Image) -> bytes:
        buffer = io.BytesIO()
        if self.settings.image_format == "png":
            image.save(buffer, "PNG")
        else:
            image.save(buffer, self.settings.image_format.upper(), quality=self.settings.quality)
        return buffer.getvalue()


def _file_name(path: str | None, image_format: str) -> str | None:
    if path is None:
        return None
    return PurePosixPath(path.replace(os.sep, "/")).stem + _SUFFIXES[image_format]


__all__ = ["CROPS", "Crop", "ImageConverter", "ImageFormat", "PrepareSettings"]
