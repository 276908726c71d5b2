"""Labelled image data sets from wherever they lie: idx files of the MNIST family, folders, parquet, the Hub."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Image

from ..image_transforms import ResizeMode, center_crop, check_resize_mode, pad, to_rgb
from .idx_files import FASHION_MNIST_CLASSES
from .sources import open_dataset
from .training_data import class_names


def load_image_dataset(source: str, split: str = "train") -> Dataset:
    """Loads one split of a labelled image data set.

    Args:
        source: a folder with the four `*-ubyte.gz` files of an MNIST-like data set, or anything that
            `datasets.load_dataset` reads: a folder of images by class, a parquet file, a Hub id.
        split: name of the split; idx folders have `train` and `test`.
    Returns:
        a data set with the columns `image` (`datasets.Image`, decoded to PIL) and `label` (`ClassLabel` with names).
        Idx files carry no names: ten classes are taken for Fashion-MNIST's when the folder's name contains "fashion",
        and are numbered otherwise.
    Raises:
        FileNotFoundError: `source` looks like a path and there is nothing, or an idx file is missing.
        ValueError: the split does not exist, an idx file is damaged, or there is no image or no label column.
    """
    return _with_image_and_label(open_dataset(source, split), source)


def images_to_tensor(
    dataset: Dataset, image_size: int, resize_mode: ResizeMode = "resize"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decodes a small data set into memory once, so that training never waits for it.

    Args:
        dataset: columns `image` and `label`, as `load_image_dataset` returns them.
        image_size: height and width of the result, in pixels.
        resize_mode: "resize" is the published evaluation transform, `transforms.center_crop`; "pad" keeps the
            pixels as they are and centres them on black, for images that are smaller than `image_size`.
    Returns:
        images, uint8, shape (len(dataset), 3, image_size, image_size); labels, int64, shape (len(dataset),).
    Raises:
        ValueError: the mode is unknown, or an image is too large to be padded.
    """
    images = torch.empty((len(dataset), 3, image_size, image_size), dtype=torch.uint8)
    labels = torch.empty(len(dataset), dtype=torch.int64)
    start = 0
    for batch_images, batch_labels in image_batches(dataset, image_size, resize_mode):
        end = start + len(batch_images)
        images[start:end], labels[start:end] = batch_images, batch_labels
        start = end
    return images, labels


def image_batches(
    dataset: Dataset, image_size: int, resize_mode: ResizeMode = "resize", batch_size: int = 1000
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Decodes a data set of any size batch by batch; arguments, dtypes and errors as for `images_to_tensor`.

    Yields:
        images, uint8, shape (batch, 3, image_size, image_size); labels, int64, shape (batch,). The last batch may be
        smaller.
    """
    check_resize_mode(resize_mode)
    fit = pad if resize_mode == "pad" else center_crop
    for batch in dataset.select_columns(["image", "label"]).iter(batch_size=batch_size):
        pixels = np.stack([np.asarray(fit(to_rgb(image), image_size)) for image in batch["image"]])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()  # (B, H, W, 3) -> (B, 3, H, W)
        yield images, torch.tensor(batch["label"], dtype=torch.int64)


def _with_image_and_label(dataset: Dataset, source: str) -> Dataset:
    """Keeps the one image column and the one column of classes, under the names `image` and `label`."""
    columns = {}
    for name, feature_type in (("image", Image), ("label", ClassLabel)):
        candidates = [column for column, feature in dataset.features.items() if isinstance(feature, feature_type)]
        column = name if name in candidates else candidates[0] if len(candidates) == 1 else None
        if column is None:
            raise ValueError(
                f"{source} has {len(candidates)} columns of the type {feature_type.__name__} and none of them is "
                f"named {name!r}; its columns are {', '.join(dataset.column_names)}. "
                f"Rename or cast one of them to {name!r}."
            )
        columns[column] = name
    return dataset.select_columns(list(columns)).rename_columns(
        {old: new for old, new in columns.items() if old != new}
    )


__all__ = [
    "FASHION_MNIST_CLASSES",
    "ResizeMode",
    "class_names",
    "image_batches",
    "images_to_tensor",
    "load_image_dataset",
]
