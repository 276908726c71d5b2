"""The views (crops) of an image that `pretokenize` encodes. Imports neither torch nor `datasets`."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image as PILImage

from .. import image_transforms as transforms
from .crops import CROPS
from .decoding import Decoding, ReadingSettings
from .records import SOURCE_INDEX, ChunkConverter, Record

Views = Literal["center", "flip", "ten_crop", "random"]

_NUM_VIEWS: dict[str, int] = {"center": 1, "flip": 2, "ten_crop": 10}


@dataclass(frozen=True)
class PretokenizeSettings(ReadingSettings):
    """
    Which crops of an image `pretokenize` encodes.

    Args:
        views: "center"; "flip", the centre and its mirror image; "ten_crop", see `transforms.ten_crop`; "random",
            `num_views` random resized crops, each mirrored with probability 1/2.
        num_views: of "random"; other views have their own number.
        seed: of "random". A crop depends on the seed, on the number of the image in the source and of the view alone.
        min_crop_area: the least share of the image that a random crop covers.
        crop: "center", the original's evaluation crop, or "adm"; for the centre and its mirror image.
        enlarge: whether images below the model's size are enlarged; if not, they keep their pixels and get black
            margins. By default what the model's image processor does.
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
    """
    Cuts the views of an image, the same ones each time.

    Args:
        settings: which views; `enlarge` has to be set.
        image_size: height and width of the crops, in pixels.
    """

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
    """Decodes images and cuts their views; columns with `pixels`, uint8 arrays (image_size, image_size, 3)."""

    views: ViewCutter

    def decoding(self) -> Decoding:
        return self.views.settings.decoding()

    def prepare_image(self, image: PILImage.Image, record: Record) -> list[np.ndarray]:
        return [np.asarray(view) for view in self.views.all(image, record.source_index)]

    def columns_of(self, usable: list[tuple[Record, int | None, list[np.ndarray]]]) -> dict[str, list]:
        columns: dict[str, list] = {name: [] for name in ("pixels", "label", "view", SOURCE_INDEX)}
        for record, label, views in usable:
            columns["pixels"] += views
            columns["label"] += [label] * len(views)
            columns["view"] += range(len(views))
            columns[SOURCE_INDEX] += [record.source_index] * len(views)
        return columns


__all__ = ["PretokenizeSettings", "ViewConverter", "ViewCutter", "Views"]
