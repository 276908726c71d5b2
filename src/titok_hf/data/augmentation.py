"""What a worker of a loader does to a batch. Needs neither torch nor `datasets`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image as PILImage

from .. import image_transforms as transforms
from .decoding import Decoding
from .records import Record, decode_record
from .views import ViewCutter

# Images, which view of each, their codes and their labels.
ViewTask = tuple[list[Record], list[int], np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class Augmentation:
    """
    Decodes, crops and mirrors.

    Args:
        image_size: side of the squares, in pixels.
        random_crop: a square at a random place; else the centre.
        flip: mirror with probability 1/2.
        seed: with the epoch and the number of the image, it decides all randomness.
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

    def __call__(self, task: tuple[int, list[Record]]) -> tuple[np.ndarray, list[int | None], list[str]]:
        """
        (epoch, records) -> pixels, uint8 (batch, 3, image_size, image_size), their labels, and what was skipped.

        Raises:
            ValueError: an image cannot be used, and is not to be skipped or has no other image in its batch.
        """
        epoch, records = task
        squares, shown, skipped = _squares(lambda record, _: self._square(record, epoch), records, self.skip_broken)
        return _stacked(squares), [records[position].label for position in shown], skipped

    def _square(self, record: Record, epoch: int) -> PILImage.Image:
        image = _decoded(record, Decoding())
        chance = random.Random(f"{self.seed}:{epoch}:{record.source_index}")
        if self.resize_mode == "pad":
            image = transforms.pad(image, self.image_size)
        elif self.random_crop:
            image = transforms.random_crop(image, self.image_size, chance)
        else:
            image = transforms.center_crop(image, self.image_size)
        return transforms.mirror(image) if self.flip and chance.random() < 0.5 else image


@dataclass(frozen=True)
class ViewBatch:
    """
    Decodes images and cuts the view of each that its codes belong to.

    Args:
        views: how the views are cut.
        skip_broken: see [`Augmentation`].
    """

    views: ViewCutter
    skip_broken: bool = False

    def __call__(self, task: ViewTask) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, list[str]]:
        """
        A task -> pixels, uint8 (batch, 3, image_size, image_size); the codes and labels that belong to them, and what
        was skipped. Raises what [`Augmentation`] raises.
        """
        records, views, codes, labels = task
        squares, shown, skipped = _squares(
            lambda record, position: self._view(record, views[position]), records, self.skip_broken
        )
        return _stacked(squares), codes[shown], None if labels is None else labels[shown], skipped

    def _view(self, record: Record, view: int) -> PILImage.Image:
        return self.views.one(_decoded(record, self.views.settings.decoding()), record.source_index, view)


def _squares(
    cut: Callable[[Record, int], PILImage.Image], records: list[Record], skip_broken: bool
) -> tuple[list[PILImage.Image], list[int], list[str]]:
    """
    Cuts the square of each image of a batch, given the image and its position.

    Returns:
        the squares; the position of the image that each shows, which is another one where an image was skipped; and
        the reasons of those that were skipped.
    """
    found: dict[int, PILImage.Image] = {}
    skipped: list[str] = []
    for position, record in enumerate(records):
        try:
            found[position] = cut(record, position)
        except ValueError as error:
            if not skip_broken or len(skipped) + 1 == len(records):
                raise
            skipped.append(str(error))
    # Which image takes a place depends on the batch alone, so a resumed run sees what it would have seen.
    usable = list(found)
    shown = [position if position in found else usable[position % len(usable)] for position in range(len(records))]
    return [found[position] for position in shown], shown, skipped


def described(record: Record) -> str:
    """An image by its number in the source and, where it is a file or has a name, by that."""
    return str(record.source_index) if record.path is None else f"{record.source_index} ({record.path})"


def _decoded(record: Record, decoding: Decoding) -> PILImage.Image:
    try:
        return decode_record(record, decoding)[0]
    except ValueError as error:
        raise ValueError(
            f"Image {described(record)} cannot be used: {error}. `titok-hf prepare` leaves such images out."
        ) from error


def _stacked(squares: list[PILImage.Image]) -> np.ndarray:
    """uint8, shape (batch, 3, height, width), in one piece of memory."""
    pixels = np.stack([np.asarray(square) for square in squares])
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


__all__ = ["Augmentation", "ViewBatch", "ViewTask", "described"]
