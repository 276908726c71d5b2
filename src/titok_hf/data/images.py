"""Labelled images as tensors, decoded into memory or batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset

from ..image_transforms import ResizeMode
from .augmentation import Augmentation
from .loaders import with_checked_label
from .sources import Source
from .training_data import class_names


def images_to_tensor(
    dataset: Dataset, image_size: int, resize_mode: ResizeMode = "resize"
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Decodes a small data set into memory once, so that training never waits for it.

    Args:
        dataset: columns `image` and `label`, as `open_images` returns them.
        image_size: height and width of the result, in pixels.
        resize_mode: "resize" is the published evaluation transform, `image_transforms.center_crop`; "pad" keeps the
            pixels as they are and centres them on black, for images that are smaller than `image_size`.

    Returns:
        images, uint8, shape (len(dataset), 3, image_size, image_size); labels, int64, shape (len(dataset),).
    Raises:
        ValueError: the mode is unknown, there are no labels, or an image is damaged, too large to be padded or without
            a class.
    """
    images, labels = zip(*image_batches(dataset, image_size, resize_mode), strict=True)
    return torch.cat(images), torch.cat(labels)


def image_batches(
    dataset: Dataset, image_size: int, resize_mode: ResizeMode = "resize", batch_size: int = 1000
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """
    Decodes a data set of any size batch by batch; arguments, dtypes and errors as for `images_to_tensor`.

    Yields:
        images, uint8, shape (batch, 3, image_size, image_size); labels, int64, shape (batch,). The last batch may be
        smaller.
    """
    decode = Augmentation(image_size, random_crop=False, flip=False, seed=0, resize_mode=resize_mode)
    source = Source(dataset)
    class_names(dataset)  # raises an error if there are no labels
    for first in range(0, len(dataset), batch_size):
        records = source.read(first, first + batch_size)
        batch: dict[str, Any] = decode((0, [with_checked_label(record, source) for record in records]))[0]
        yield torch.from_numpy(batch["pixels"]), torch.from_numpy(batch["label"])


__all__ = ["ResizeMode", "image_batches", "images_to_tensor"]
