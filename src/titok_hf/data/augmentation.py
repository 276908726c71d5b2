"""How a worker of a loader makes a batch. Imports neither torch nor `datasets`."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image as PILImage

from .. import image_transforms as transforms
from .crops import ViewCutter
from .decoding import Decoding
from .records import Record, decode_record

# A batch of arrays, and why images of it were skipped.
Batch = tuple[dict[str, np.ndarray], list[str]]

# Images, which view of each, their codes and their labels.
ViewTask = tuple[list[Record], list[int], np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class Augmentation:
    """
    Decodes, crops and mirrors.

    Args:
        image_size: height and width of the crops, in pixels.
        random_crop: a crop at a random position; else the centre.
        flip: mirror with probability 1/2.
        seed: all random choices are a function of it, the epoch and the number of the image.
        resize_mode: "resize", or "pad", which crops nothing.
        skip_broken: whether an image that cannot be used is replaced by another one of its batch.

    Raises:
        ValueError: a size below 1, or an unknown mode.
    """

    image_size: int
    random_crop: bool
    flip: bool
    seed: int
    resize_mode: transforms.ResizeMode = "resize"
    skip_broken: bool = False

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size}; it has to be at least 1.")
        transforms.check_resize_mode(self.resize_mode)

    def __call__(self, task: tuple[int, list[Record]]) -> Batch:
        """
        (epoch, records) -> `pixels`, uint8 (batch, 3, image_size, image_size), and `label`, int64 (batch,), if the
        images have labels; and the reasons of skipped images.

        Raises:
            ValueError: an image cannot be used, and skip_broken is False or its batch has no other image.
        """
        epoch, records = task
        pixels, shown, skipped = _crops(lambda record, _: self._crop(record, epoch), records, self.skip_broken)
        labels = [records[position].label for position in shown]
        return {"pixels": pixels} | ({} if None in labels else {"label": np.array(labels)}), skipped

    def _crop(self, record: Record, epoch: int) -> PILImage.Image:
        image = decoded(record, Decoding())
        rng = random.Random(f"{self.seed}:{epoch}:{record.source_index}")
        if self.resize_mode == "pad":
            image = transforms.pad(image, self.image_size)
        elif self.random_crop:
            image = transforms.random_crop(image, self.image_size, rng)
        else:
            image = transforms.center_crop(image, self.image_size)
        return transforms.mirror(image) if self.flip and rng.random() < 0.5 else image


@dataclass(frozen=True)
class ViewBatch:
    """Decodes images and crops each to the view that its codes belong to; `skip_broken` as in [`Augmentation`]."""

    views: ViewCutter
    skip_broken: bool = False

    def __call__(self, task: ViewTask) -> Batch:
        """A task -> `pixels`, `codes` and, if there are labels, `label`. Raises what [`Augmentation`] raises."""
        records, views, codes, labels = task
        pixels, shown, skipped = _crops(
            lambda record, position: self._view(record, views[position]), records, self.skip_broken
        )
        batch = {"pixels": pixels, "codes": codes[shown].astype(np.int64)}
        return batch if labels is None else batch | {"label": labels[shown].astype(np.int64)}, skipped

    def _view(self, record: Record, view: int) -> PILImage.Image:
        return self.views.one(decoded(record, self.views.settings.decoding()), record.source_index, view)


def _crops(
    crop: Callable[[Record, int], PILImage.Image], records: list[Record], skip_broken: bool
) -> tuple[np.ndarray, list[int], list[str]]:
    """
    Crops each image of a batch, given the image and its position.

    Returns:
        pixels, uint8 (batch, 3, height, width); for each, the position of its image, which is another one if its own
        image was skipped; and the reasons of skipped images.
    """
    found: dict[int, PILImage.Image] = {}
    skipped: list[str] = []
    for position, record in enumerate(records):
        try:
            found[position] = crop(record, position)
        except ValueError as error:
            if not skip_broken or len(skipped) + 1 == len(records):
                raise
            skipped.append(str(error))
    # The replacement depends on the batch alone, so a resumed run gets the same one.
    usable = list(found)
    shown = [position if position in found else usable[position % len(usable)] for position in range(len(records))]
    pixels = np.stack([np.asarray(found[position]) for position in shown])
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), shown, skipped


@dataclass(frozen=True)
class BatchMaker:
    """
    The map-style data set of a `DataLoader` whose indices are numbered tasks. Errors are returned as values, because
    torch would add a worker's traceback to their text.
    """

    work: Callable[[Any], Batch]

    def __getitem__(self, numbered_task: tuple[Any, Any]) -> tuple[Any, Any, list[str]]:
        number, task = numbered_task
        try:
            return number, *self.work(task)
        except Exception as error:
            return number, error, []


def described(record: Record) -> str:
    """The number of an image in the source, and its path or name if it has one."""
    return str(record.source_index) if record.path is None else f"{record.source_index} ({record.path})"


def decoded(record: Record, decoding: Decoding) -> PILImage.Image:
    """An image in RGB; ValueError that names an image that cannot be used."""
    try:
        return decode_record(record, decoding).image
    except ValueError as error:
        raise ValueError(
            f"Image {described(record)} cannot be used: {error}. `titok-hf prepare` leaves such images out."
        ) from error
