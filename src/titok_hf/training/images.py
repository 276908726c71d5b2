"""Images of a run: on the way to the model, and as the contact sheets that a run writes."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from PIL import Image
from torch import nn

from titok_hf.contact_sheets import contact_sheet, paired_contact_sheet
from titok_hf.evaluation.frechet import round_to_bytes
from titok_hf.evaluation.images import to_pil
from titok_hf.image_processing_pil_titok import TiTokImageProcessorPil

from .recipes import RecipeError


@contextmanager
def errors_of_section(name: str) -> Iterator[None]:
    """Raises errors about data as a RecipeError that begins with the section of the recipe."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        raise RecipeError(f"{name}: {error}") from error


def sampled_weights_digest(model: nn.Module) -> str:
    """A digest of the first values of every parameter, by which two models of one kind differ."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def image_processor(image_size: int, resize_mode: str) -> TiTokImageProcessorPil:
    """The image processor of a trained model: it crops images as in training."""
    return TiTokImageProcessorPil(size={"shortest_edge": image_size}, do_enlarge=resize_mode == "resize")


def to_pixel_values(images: torch.Tensor) -> torch.Tensor:
    """uint8 in [0, 255] -> float32 in [0, 1], any shape."""
    return images.float() / 255


def sheet_of(pixel_values: torch.Tensor, columns: int, labels: Sequence[str] | None = None) -> Image.Image:
    """A contact sheet of images with values around [0, 1], shape (batch, 3, height, width); a label for each row."""
    return contact_sheet(_images_of(pixel_values), columns, labels=labels)


def sheet_of_pairs(images: torch.Tensor, reconstructions: torch.Tensor, columns: int = 16) -> Image.Image:
    """A contact sheet of images above their reconstructions, both with values around [0, 1]."""
    return paired_contact_sheet(_images_of(images), _images_of(reconstructions), columns, labelled=False)


def _images_of(pixel_values: torch.Tensor) -> list[Image.Image]:
    return to_pil(round_to_bytes(pixel_values).cpu())
