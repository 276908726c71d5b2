"""What a worker of `prepare` does to an image: decode, crop, encode. Needs neither torch nor `datasets`."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Literal

from PIL import Image as PILImage

from .. import image_transforms as transforms
from .decoding import Decoding, ReadingSettings
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
class PrepareSettings(ReadingSettings):
    """
    What `prepare` makes of the images.

    Args:
        image_size: length of the shorter edge, and of both edges of a crop, in pixels.
        crop: "center", the original's evaluation crop; "adm", the crop of ADM; "none", resized but uncropped, which
            leaves training its random crops.
        image_format: of the stored images.
        quality: 1 to 100; for JPEG and WebP. PNG is lossless.
        enlarge: enlarge images below `image_size`; if not, they keep their pixels and get black margins.
        fast_jpeg: decode large JPEGs at a fraction of their size. Faster, but pixels differ from the published
            transform.
        reading: the keywords of [`ReadingSettings`].

    Raises:
        ValueError: a value that is out of range or unknown.
    """

    image_size: int = 256
    crop: Crop = "center"
    image_format: ImageFormat = "jpeg"
    quality: int = 95
    enlarge: bool = True
    fast_jpeg: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("crop", CROPS), ("image_format", _SUFFIXES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it has to be one of {', '.join(known)}.")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality is {self.quality}; it has to lie between 1 and 100.")
        self.check_at_least_one("image_size")

    def decoding(self) -> Decoding:
        return replace(super().decoding(), fast_jpeg_size=self.image_size if self.fast_jpeg else None)


@dataclass(frozen=True)
class ImageConverter(ChunkConverter):
    """Decodes, crops and encodes; what a worker of `prepare` does."""

    settings: PrepareSettings

    def decoding(self) -> Decoding:
        return self.settings.decoding()

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
