"""Images of a run as tensors: in memory, on the way to the model, and as the pictures that a run writes."""

import torch
from PIL import Image
from torch.utils.data import TensorDataset

from titok_hf.data.images import class_names, images_to_tensor, load_image_dataset
from titok_hf.pictures import contact_sheet

from .configs import ImageDataConfig


def load_split(config: ImageDataConfig, split: str) -> tuple[TensorDataset, list[str]]:
    """
    One split, decoded.

    Returns:
        pairs of an image (uint8, shape (3, image_size, image_size)) and a label (int64), and the names of the classes.
    """
    dataset = load_image_dataset(config.source, split)
    return TensorDataset(*images_to_tensor(dataset, config.image_size, config.resize_mode)), class_names(dataset)


def to_pixel_values(images: torch.Tensor) -> torch.Tensor:
    """uint8 in [0, 255] -> float32 in [0, 1], any shape."""
    return images.float() / 255


def flip_half(images: torch.Tensor) -> torch.Tensor:
    """Mirrors each image of a batch (batch, channels, height, width) with probability 1/2."""
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(-1), images)


def picture_of(pixel_values: torch.Tensor, columns: int) -> Image.Image:
    """A contact sheet of images with values around [0, 1], shape (batch, 3, height, width)."""
    pixels = (pixel_values.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return contact_sheet([Image.fromarray(image) for image in pixels], columns)


__all__ = ["flip_half", "load_split", "picture_of", "to_pixel_values"]
