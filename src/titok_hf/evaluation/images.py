"""The images of a data set as an evaluation reads them: in order, of the model's size, any of them again."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from titok_hf.data.augmentation import decoded
from titok_hf.data.decoding import Decoding
from titok_hf.data.loaders import with_checked_label
from titok_hf.data.records import Record
from titok_hf.data.sources import Source
from titok_hf.data.training_data import class_names, open_image_split
from titok_hf.image_transforms import adm_center_crop, center_crop, pad

Crop = Literal["center", "adm", "pad"]
_CROPS: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "center": center_crop,
    "adm": adm_center_crop,
    "pad": pad,
}
_FILES_LOOKED_AT = 100


class EvaluationImages:
    """
    A split of a data set.

    Args:
        source: of images, as `titok_hf.data.sources.open_dataset` takes it.
        split: its name.
        image_size: height and width of the images that are read.
        crop: "center", the original's evaluation crop; "adm", that of ADM; "pad", which keeps the pixels of smaller
            images and puts them on black.
        limit: use only so many images, evenly taken from the whole split.
        allow_lossy: whether images may be JPEG files that already have the model's size.

    Attributes:
        name: of the data set and the digest of its files, for a `Convention`.
        label_names: names of the classes; None without labels.

    Raises:
        FileNotFoundError, ValueError: no such data set or split, fewer than two images, or lossy files.
    """

    def __init__(
        self,
        source: str,
        split: str,
        image_size: int,
        crop: Crop = "center",
        limit: int | None = None,
        allow_lossy: bool = False,
    ) -> None:
        if crop not in _CROPS:
            raise ValueError(f"crop is {crop!r}; it has to be one of {', '.join(_CROPS)}.")
        opened = open_image_split(source, split)
        self.image_size, self.crop, self.split = image_size, crop, split
        self._source = Source(opened.dataset)
        total = self._source.num_images or 0
        count = total if limit is None else min(limit, total)
        if count < 2:
            raise ValueError(
                f"An evaluation needs at least two images, but {source} has {count} in the split {split!r}."
            )
        self._numbers = np.linspace(0, total - 1, count).round().astype(int).tolist()
        digest = "" if opened.digest is None else f", files {opened.digest[:8]}"
        self.name = f"{Path(source).resolve().name if Path(source).exists() else source}{digest}"
        self.label_names = class_names(opened.dataset) if self._source.has_labels else None
        if not allow_lossy:
            self._check_not_lossy(source)

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, images: range | list[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Some of the images.

        Returns:
            images, uint8, shape (batch, 3, image_size, image_size); labels, int64, shape (batch,), if there are any.
        Raises:
            ValueError: an image that cannot be used, or a label that is no class.
        """
        records = self._source.take([self._numbers[number] for number in images])
        records = [with_checked_label(record, self._source) for record in records]
        pixels = np.stack([np.asarray(self._cropped(record)) for record in records]).transpose(0, 3, 1, 2)
        labels = torch.tensor([record.label for record in records]) if self.label_names is not None else None
        return torch.from_numpy(np.ascontiguousarray(pixels)), labels

    def batches(
        self, batch_size: int, progress: Callable[[int], object] = lambda count: None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """All images in order, as `read` returns them; `progress` is told the number of images of each batch."""
        for start in range(0, len(self), batch_size):
            images, labels = self.read(range(start, min(start + batch_size, len(self))))
            yield images, labels
            progress(len(images))

    def size_inside_padding(self) -> tuple[int, int] | None:
        """Height and width of the first image before padding; None for another crop."""
        if self.crop != "pad":
            return None
        width, height = decoded(self._source.take([self._numbers[0]])[0], Decoding()).size
        return height, width

    def _cropped(self, record: Record) -> Image.Image:
        return _CROPS[self.crop](decoded(record, Decoding()), self.image_size)

    def _check_not_lossy(self, source: str) -> None:
        records = self._source.take(self._numbers[:_FILES_LOOKED_AT])
        if all(_is_lossy_crop(record, self.image_size) for record in records):
            raise ValueError(
                f"{source} holds JPEG or lossy WebP files of {self.image_size} x {self.image_size} pixels: crops that "
                "were compressed, which moves every number. Use PNG files or the original images. If these files are "
                "the originals, allow them with --lossy."
            )


def to_pil(images: torch.Tensor) -> list[Image.Image]:
    """uint8 images, shape (batch, 3, height, width), for a contact sheet."""
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def _is_lossy_crop(record: Record, size: int) -> bool:
    try:
        content = record.read()
        with Image.open(io.BytesIO(content)) as image:
            is_lossy = image.format in ("JPEG", "MPO") or (image.format == "WEBP" and content[12:16] == b"VP8 ")
            return is_lossy and image.size == (size, size)
    except (OSError, ValueError):  # said when the image is read
        return False


__all__ = ["Crop", "EvaluationImages", "to_pil"]
