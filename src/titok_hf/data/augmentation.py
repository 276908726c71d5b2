"""What a worker of an `ImageLoader` does to a batch. Needs neither torch nor `datasets`."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from . import transforms
from .decoding import Decoding
from .records import Record, decode_record


@dataclass(frozen=True)
class Augmentation:
    """
    Decodes, crops and mirrors.

    Args:
        image_size: side of the squares, in pixels.
        random_crop: a square at a random place; else the centre.
        flip: mirror with probability 1/2.
        seed: with the epoch and the number of the image, it decides all randomness.
    """

    image_size: int
    random_crop: bool
    flip: bool
    seed: int

    def __call__(self, task: tuple[int, list[Record]]) -> tuple[np.ndarray, list[int | None]]:
        """(epoch, records) -> pixels, uint8 (batch, image_size, image_size, 3), and labels."""
        epoch, records = task
        pixels = np.stack([self._square(record, epoch) for record in records])
        return pixels, [record.label for record in records]

    def _square(self, record: Record, epoch: int) -> np.ndarray:
        try:
            image, _ = decode_record(record, Decoding())
        except ValueError as error:
            raise ValueError(
                f"Image {record.source_index} cannot be used: {error}. `titok-hf prepare` leaves such images out."
            ) from error
        chance = random.Random(f"{self.seed}:{epoch}:{record.source_index}")
        if self.random_crop:
            image = transforms.random_square(image, self.image_size, chance)
        else:
            image = transforms.center_square(image, self.image_size)
        return np.asarray(transforms.mirror(image) if self.flip and chance.random() < 0.5 else image)


__all__ = ["Augmentation"]
