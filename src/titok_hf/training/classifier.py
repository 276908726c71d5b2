"""
Trains a small image classifier: the perceptual network of a tokenizer, or a network that measures one.

The result is a plain classifier of `transformers` that takes pixel values in [0, 1], without normalisation.
`python -m titok_hf.training.classifier RECIPE` is the same as `titok-hf train RECIPE`.
"""

from pathlib import Path
from runpy import run_module
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL import Image
from torch import nn
from transformers import AutoModelForImageClassification, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from titok_hf.data.run_data import open_image_data

from .configs import ClassifierRecipe
from .images import errors_of_section, sheet_of, to_pixel_values
from .recipes import RecipeError
from .rng import StepRng
from .task import Batch, ModelLosses, Task
from .tokenizer import build_config

_BATCH_SIZE = 500
_IMAGES_SHOWN = 64


class ClassifierTask(Task):
    """
    An image classifier of `transformers`, its labelled images, and cross-entropy.

    Args:
        recipe: of this kind.
        accelerator: whose processes train together.
    Raises:
        RecipeError: there is no such architecture, its fields do not fit, or images have no class.
    """

    best = ("accuracy", True)

    def __init__(self, recipe: ClassifierRecipe, accelerator: Accelerator):
        self.recipe, self.accelerator = recipe, accelerator
        num_test, batch_size = recipe.intervals.num_test_images, recipe.optimization.batch_size
        with errors_of_section("data"):
            opened = open_image_data(recipe.data, num_test, batch_size, recipe.seed, with_labels=True)
        assert opened.test_labels is not None  # images are opened with labels
        self.data_record, self.loader = opened.splits.record, opened.loader
        self.test_images, self.test_labels = opened.test, opened.test_labels
        model = build_classifier(recipe.model, opened.splits.class_names or [])
        self.model = model.to(accelerator.device, memory_format=torch.channels_last)

    def model_losses(self, model: nn.Module, batch: Batch, rng: StepRng, step: int) -> ModelLosses:
        """Cross-entropy and accuracy of shifted uint8 images (batch, 3, height, width) with labels (batch,)."""
        labels = batch["label"]
        images = shift_randomly(batch["pixels"], self.recipe.max_shift, rng.uniform(len(labels), 2))
        logits = model(pixel_values=to_pixel_values(images)).logits
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        return ModelLosses({"loss": loss, "accuracy": (logits.argmax(dim=1) == labels).float().mean()})

    def evaluate(self) -> tuple[dict[str, float], Image.Image | None]:
        """The accuracy on test images, of which each process takes its share; an image of those it gets wrong."""
        hits = torch.zeros(len(self.test_labels), device=self.accelerator.device)
        batches = torch.arange(len(hits)).split(_BATCH_SIZE)
        for own in batches[self.accelerator.process_index :: self.accelerator.num_processes]:
            images = to_pixel_values(self.test_images[own].to(hits.device))
            hits[own] = (self.model(pixel_values=images).logits.argmax(dim=1).cpu() == self.test_labels[own]).to(hits)
        hits = self.sum_over_processes(hits)
        measures = {"accuracy": hits.mean().item()}
        if not self.accelerator.is_main_process:
            return measures, None
        wrong_first = self.test_images[hits.argsort(stable=True)[:_IMAGES_SHOWN]]
        return measures, sheet_of(to_pixel_values(wrong_first), columns=16)

    def save(self, folder: Path, weights: dict[str, torch.Tensor]) -> None:
        self.model.save_pretrained(folder, state_dict=weights)


def build_classifier(values: dict[str, Any], names: list[str]) -> PreTrainedModel:
    """A classifier with new weights: of a recipe's `model`, and the names of the classes."""
    values = dict(values)
    model_type = values.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        raise RecipeError(
            f"model.model_type is {model_type!r}, which is no architecture of transformers. Name one that classifies "
            "images, such as resnet or regnet."
        )
    label2id = {name: index for index, name in enumerate(names)}
    values |= {"id2label": dict(enumerate(names)), "label2id": label2id}
    return AutoModelForImageClassification.from_config(build_config(CONFIG_MAPPING[model_type], values))


def shift_randomly(images: torch.Tensor, max_shift: int, draws: torch.Tensor) -> torch.Tensor:
    """
    Moves each image by its own random number of pixels, up to `max_shift` in each direction; black fills the gap.

    Args:
        images: shape (batch, channels, height, width), any dtype.
        draws: uniform in [0, 1), shape (batch, 2), for the vertical and the horizontal shift.
    Returns:
        the same shape and dtype, in channels-last memory format.
    """
    batch, _, height, width = images.shape
    device = images.device
    offsets = (draws * (2 * max_shift + 1)).long()  # (B, 2)
    rows = offsets[:, :1] + torch.arange(height, device=device)  # (B, H)
    columns = offsets[:, 1:] + torch.arange(width, device=device)  # (B, W)
    padded = F.pad(images, [max_shift] * 4)
    sample = torch.arange(batch, device=device)[:, None, None]
    moved = padded[sample, :, rows[:, :, None], columns[:, None, :]]  # (B, H, W, C)
    return moved.permute(0, 3, 1, 2)


if __name__ == "__main__":
    run_module("titok_hf.training", run_name="__main__")
