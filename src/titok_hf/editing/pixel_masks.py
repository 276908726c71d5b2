"""Pixel masks: which part of an image is to be filled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image

from ..image_processing_pil_titok import single_images
from ..image_transforms import upright
from ..pipeline_inputs import Images

LoadedImage: TypeAlias = Image.Image | np.ndarray | torch.Tensor

_RULE = "A mask is black where the image is known and white where it is to be filled"


def pixel_masks(
    masks: Images, images: list[LoadedImage], image_size: int, preprocess: Callable[[Any], torch.Tensor]
) -> torch.Tensor:
    """
    Masks of images after preprocessing.

    Args:
        masks: one for all images, or one for each: PIL images, arrays or tensors, (height, width). True, 255, or 1
            among zeros marks what is to be filled. Each has the size of its image, and is resized and cropped as that
            image is; or the size of the model's images.
        images: the images before preprocessing, already read from files.
        image_size: height and width of the model's images.
        preprocess: images of any size to pixel values (batch, 3, image_size, image_size).

    Returns:
        bool, shape (batch, 1, image_size, image_size), True where the image is to be filled.

    Raises:
        ValueError: another number of masks than of images, another size, other values than these two, or a mask that
            marks no pixel or all of them.
    """
    single = list(_single_masks(masks))
    if len(single) not in (1, len(images)):
        raise ValueError(f"There are {len(single)} masks for {len(images)} images. Give one, or one for each image.")
    arrays = [_as_booleans(mask) for mask in single]
    prepared: dict[tuple[int, tuple[int, int] | None], torch.Tensor] = {}
    rows = []
    for number, image in enumerate(images):
        which = number % len(arrays)
        size = None if arrays[which].shape == (image_size, image_size) else _size_of(image)
        if (which, size) not in prepared:
            prepared[which, size] = _prepared(arrays[which], size, image_size, preprocess)
        rows.append(prepared[which, size])
    return torch.stack(rows)


def _single_masks(masks: Any) -> Iterator[Any]:
    """One mask after the other; an array or tensor of three axes is a batch unless one of them is for colours."""
    is_array = isinstance(masks, np.ndarray | torch.Tensor)
    if is_array and masks.ndim == 3 and masks.shape[0] != 1 and masks.shape[2] not in (1, 3, 4):
        yield from masks
    else:
        yield from single_images(masks)


def _as_booleans(mask: Any) -> np.ndarray:
    """One mask as booleans, shape (height, width)."""
    if isinstance(mask, Image.Image):
        mask = np.asarray(mask if mask.mode == "1" else mask.convert("L"))
    elif isinstance(mask, torch.Tensor):
        mask = mask.detach().cpu().numpy()
    if not isinstance(mask, np.ndarray):
        raise ValueError(f"mask is of type {type(mask).__name__}. Give a PIL image, a path, an array or a tensor.")
    if mask.ndim == 3 and 1 in (mask.shape[0], mask.shape[2]):
        mask = mask[0] if mask.shape[0] == 1 else mask[..., 0]
    if mask.ndim != 2:
        raise ValueError(f"mask has shape {mask.shape}. Give (height, width), without colours.")
    values = np.unique(mask)
    is_number = mask.dtype.kind in "buif"
    if not is_number or not (set(values.tolist()) <= {0, 1} or set(values.tolist()) <= {0, 255}):
        shown = ", ".join(f"{value:g}" for value in values[:5]) if is_number else f"of dtype {mask.dtype}"
        raise ValueError(
            f"mask has the values {shown}{', ...' if len(values) > 5 else ''}, but only two are expected, 0 and "
            f"255 or 0 and 1. {_RULE}: choose a threshold first."
        )
    return mask > 0


def _prepared(
    mask: np.ndarray, size: tuple[int, int] | None, image_size: int, preprocess: Callable[[Any], torch.Tensor]
) -> torch.Tensor:
    """A mask of the model's size, (1, H, W); `size` is that of its image, unless it needs no resizing."""
    if size is not None:
        if mask.shape != size:
            raise ValueError(
                f"mask has {mask.shape[0]} x {mask.shape[1]} pixels (height x width), but its image has {size[0]} x "
                f"{size[1]}. Give a mask of that size, or of the model's size, {image_size} x {image_size}."
            )
        grey = np.repeat(mask[None].astype(np.uint8) * 255, 3, axis=0)
        prepared = preprocess([grey])[0, :1] > 0.5
    else:
        prepared = torch.from_numpy(mask)[None]
    if not prepared.any():
        raise ValueError(f"mask marks no pixel of the cropped image, so there is nothing to fill. {_RULE}.")
    if mask.all() or prepared.all():  # an image that is padded has known pixels around it
        raise ValueError(f"mask marks every pixel of the cropped image, so nothing of it is known. {_RULE}.")
    return prepared.cpu()


def _size_of(image: LoadedImage) -> tuple[int, int]:
    """Height and width of an image as it is shown: upright, if its file says so."""
    if isinstance(image, Image.Image):
        width, height = upright(image).size
        return height, width
    shape = tuple(image.shape)
    if len(shape) == 3:
        shape = shape[1:] if shape[0] in (1, 3, 4) else shape[:2]
    return shape[0], shape[1]


__all__ = ["pixel_masks"]
