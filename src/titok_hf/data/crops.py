"""What workers of `prepare` and `pretokenize` do to an image. Imports neither torch nor `datasets`."""

import io
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image as PILImage

from .. import image_transforms as transforms
from .decoding import Decoding, ReadingSettings
from .records import ChunkConverter, Record

Crop = Literal["center", "adm", "none"]
ImageFormat = Literal["jpg", "png", "webp"]
Views = Literal["center", "flip", "ten_crop", "random"]

CROPS: dict[str, Callable[[PILImage.Image, int], PILImage.Image]] = {
    "center": transforms.center_crop,
    "adm": transforms.adm_center_crop,
    "none": transforms.resize_shorter_edge,
}
_NUM_VIEWS: dict[str, int] = {"center": 1, "flip": 2, "ten_crop": 10}
_PIL_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


@dataclass(frozen=True)
class PrepareSettings(ReadingSettings):
    """
    What `prepare` makes of the images.

    Args:
        image_size: length of the shorter edge, and of both edges of a crop, in pixels.
        crop: "center", the original's evaluation crop; "adm", the crop of ADM; "none", resized but not cropped, for
            random crops in training.
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
    image_format: ImageFormat = "jpg"
    quality: int = 95
    enlarge: bool = True
    fast_jpeg: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("crop", CROPS), ("image_format", _PIL_FORMATS)):
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

    def prepare_image(self, image: PILImage.Image, record: Record) -> list[dict[str, Any]]:
        settings = self.settings
        if not settings.enlarge:
            image = transforms.center_on_black(image, settings.image_size)
        image = CROPS[settings.crop](image, settings.image_size)
        buffer = io.BytesIO()
        image.save(buffer, _PIL_FORMATS[settings.image_format], quality=settings.quality)  # which PNG ignores
        path = None if record.path is None else f"{Path(record.path).stem}.{settings.image_format}"
        return [{"image": {"bytes": buffer.getvalue(), "path": path}}]


@dataclass(frozen=True)
class PretokenizeSettings(ReadingSettings):
    """
    Which crops of an image `pretokenize` encodes.

    Args:
        views: "center"; "flip", the centre and its mirror image; "ten_crop", see `transforms.ten_crop`; "random",
            `num_views` random resized crops, each mirrored with probability 1/2.
        num_views: for "random"; the others have a fixed number.
        seed: for "random". A crop depends on the seed, the number of the image in the source and that of the view.
        min_crop_area: for "random", the smallest share of the image that a crop covers.
        crop: "center", the original's evaluation crop, or "adm"; for the centre and its mirror image.
        enlarge: whether images below the model's size are enlarged; if not, they keep their pixels and get black
            margins. By default as in the model's image processor.
        reading: the keywords of [`ReadingSettings`].

    Raises:
        ValueError: a value that is out of range or unknown.
    """

    views: Views = "center"
    num_views: int = 1
    seed: int = 0
    min_crop_area: float = 0.8
    crop: Literal["center", "adm"] = "center"
    enlarge: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.views not in (*_NUM_VIEWS, "random"):
            raise ValueError(f"views is {self.views!r}; it has to be one of {', '.join(_NUM_VIEWS)}, random.")
        if self.crop not in ("center", "adm"):
            raise ValueError(f"crop is {self.crop!r}; it has to be 'center' or 'adm'.")
        if self.views != "random":
            object.__setattr__(self, "num_views", _NUM_VIEWS[self.views])
        if not 1 <= self.num_views <= 2**15:
            raise ValueError(f"num_views is {self.num_views}; it has to lie between 1 and {2**15}.")
        if not 0 < self.min_crop_area <= 1:
            raise ValueError(f"min_crop_area is {self.min_crop_area}; it has to lie in (0, 1].")


@dataclass(frozen=True)
class ViewCutter:
    """Crops an image to its views, `image_size` x `image_size` pixels, each time in the same way."""

    settings: PretokenizeSettings
    image_size: int

    def all(self, image: PILImage.Image, source_index: int) -> list[PILImage.Image]:
        """All views, in order. `source_index` is the number of the image in its source."""
        settings, size = self.settings, self.image_size
        if settings.views == "random":
            return [self.one(image, source_index, view) for view in range(settings.num_views)]
        image = self._large_enough(image)
        if settings.views == "ten_crop":
            return transforms.ten_crop(image, size)
        crop = CROPS[settings.crop](image, size)
        return [crop] if settings.views == "center" else [crop, transforms.mirror(crop)]

    def one(self, image: PILImage.Image, source_index: int, view: int) -> PILImage.Image:
        """View number `view`."""
        if self.settings.views != "random":
            return self.all(image, source_index)[view]
        rng = random.Random(f"{self.settings.seed}:{source_index}:{view}")
        image = self._large_enough(image)
        crop = transforms.random_resized_crop(image, self.image_size, rng, self.settings.min_crop_area)
        return transforms.mirror(crop) if rng.random() < 0.5 else crop

    def _large_enough(self, image: PILImage.Image) -> PILImage.Image:
        return image if self.settings.enlarge else transforms.center_on_black(image, self.image_size)


@dataclass(frozen=True)
class ViewConverter(ChunkConverter):
    """Decodes images and cuts their views; rows with `pixels`, uint8 (image_size, image_size, 3)."""

    views: ViewCutter

    def decoding(self) -> Decoding:
        return self.views.settings.decoding()

    def prepare_image(self, image: PILImage.Image, record: Record) -> list[dict[str, Any]]:
        views = self.views.all(image, record.source_index)
        return [{"pixels": np.asarray(view), "view": number} for number, view in enumerate(views)]
