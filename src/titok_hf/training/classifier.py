"""Trains a small image classifier: the perceptual network of a tokenizer, or the judge that measures one.

    python -m titok_hf.training.classifier fashion_classifier --set output_dir=runs/fashion_classifier

The result is a plain `transformers` image classifier that takes pixel values in [0, 1], without normalisation.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed, tqdm
from torch.utils.data import DataLoader, TensorDataset
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PreTrainedModel,
    get_cosine_schedule_with_warmup,
)

from titok_hf.boundary import run
from titok_hf.checkpoints.layout import checkpoint_atomically
from titok_hf.data.images import images_to_tensor

from .configs import ImageDataConfig
from .images import flip_half, image_splits, to_pixel_values
from .recipes import RecipeError, load_recipe, recipe_to_yaml


@dataclass
class ClassifierModelConfig:
    """An architecture of `transformers`: its model type and the fields of its config that differ from the defaults."""

    model_type: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class ClassifierConfig:
    """A whole training run.

    Args:
        output_dir: folder of the result; it must not exist yet.
        learning_rate: peak of the cosine schedule, which starts and ends at 0.
        warmup_ratio: share of all steps that raise the learning rate, in [0, 1].
        max_shift: images are moved by up to that many pixels in each direction, black coming in.
        batch_size: images per step and process.
    """

    output_dir: str
    data: ImageDataConfig
    model: ClassifierModelConfig
    num_epochs: int
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup_ratio: float = 0.1
    label_smoothing: float = 0.0
    max_shift: int = 0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batch_size", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it has to be larger than 0.")


def shift_randomly(images: torch.Tensor, max_shift: int) -> torch.Tensor:
    """Moves each image by its own random number of pixels, up to `max_shift` in each direction.

    Args:
        images: shape (batch, channels, height, width), any dtype; 0 is black.
    Returns:
        the same shape and dtype, in channels-last memory format.
    """
    batch, _, height, width = images.shape
    device = images.device
    offsets = torch.randint(2 * max_shift + 1, (2, batch, 1), device=device)
    rows = offsets[0] + torch.arange(height, device=device)  # (B, H)
    columns = offsets[1] + torch.arange(width, device=device)  # (B, W)
    padded = F.pad(images, [max_shift] * 4)
    sample = torch.arange(batch, device=device)[:, None, None]
    moved = padded[sample, :, rows[:, :, None], columns[:, None, :]]  # (B, H, W, C)
    return moved.permute(0, 3, 1, 2)


def build_classifier(config: ClassifierModelConfig, names: list[str]) -> PreTrainedModel:
    """A classifier with fresh weights that knows the names of its classes."""
    model_config = AutoConfig.for_model(
        config.model_type,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        **config.options,
    )
    return AutoModelForImageClassification.from_config(model_config)


@torch.inference_mode()
def measure_accuracy(model: torch.nn.Module, loader: DataLoader, accelerator: Accelerator) -> float:
    """The share of images, in [0, 1], whose class the model names right; over all processes."""
    model.eval()
    hits = []
    for images, labels in loader:
        predictions = model(pixel_values=to_pixel_values(images)).logits.argmax(dim=1)
        hits.append(accelerator.gather_for_metrics(predictions == labels))
    return torch.cat(hits).float().mean().item()


def train_classifier(config: ClassifierConfig) -> float:
    """Trains a classifier and saves it as safetensors, with its recipe and its accuracy beside it.

    Returns:
        the accuracy on the test split, in [0, 1].
    Raises:
        FileExistsError: `output_dir` exists already.
    """
    if Path(config.output_dir).exists():
        raise FileExistsError(f"{config.output_dir} exists already. Choose another output_dir, or remove it.")
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    set_seed(config.seed)
    if config.data.test_split is None:
        raise RecipeError("data names no test_split, which this kind of run needs.")
    splits = image_splits(replace(config.data, streaming=False), num_test=0, with_labels=True)
    names = splits.class_names or []
    train_set, test_set = (
        TensorDataset(*images_to_tensor(split, config.data.image_size, config.data.resize_mode))
        for split in (splits.train, splits.test)
    )
    train_loader = DataLoader(train_set, config.batch_size, shuffle=True, drop_last=True)
    test_loader = DataLoader(test_set, config.batch_size)
    model = build_classifier(config.model, names).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    model, optimizer, train_loader, test_loader = accelerator.prepare(model, optimizer, train_loader, test_loader)
    # accelerate advances a prepared schedule once per process; this one counts steps itself and is left unprepared.
    num_steps = config.num_epochs * len(train_loader)
    schedule = get_cosine_schedule_with_warmup(optimizer, int(config.warmup_ratio * num_steps), num_steps)

    for epoch in range(config.num_epochs):
        model.train()
        progress = tqdm(train_loader, desc=f"epoch {epoch + 1}/{config.num_epochs}", mininterval=2)
        for images, labels in progress:
            images = shift_randomly(images, config.max_shift)
            if config.data.horizontal_flip:
                images = flip_half(images)
            logits = model(pixel_values=to_pixel_values(images)).logits
            loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        accuracy = measure_accuracy(model, test_loader, accelerator)
        accelerator.print(f"epoch {epoch + 1}: loss {loss.item():.3f}, test accuracy {accuracy:.4f}")

    if accelerator.is_main_process:
        _save(accelerator.unwrap_model(model), config, accuracy)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return accuracy


def _save(model: PreTrainedModel, config: ClassifierConfig, accuracy: float) -> None:
    with checkpoint_atomically(config.output_dir) as folder:
        model.save_pretrained(folder)
        (folder / "recipe.yaml").write_text(recipe_to_yaml(config), encoding="utf-8")
        (folder / "metrics.json").write_text(json.dumps({"test_accuracy": accuracy}) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Command line: a recipe and `--set key=value` overrides."""
    parser = argparse.ArgumentParser(description="Train an image classifier.")
    parser.add_argument("recipe", help="name of a recipe of this package, or the path of a YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of it")
    options = parser.parse_args(arguments)
    try:
        train_classifier(load_recipe(ClassifierConfig, options.recipe, options.set))
    except (RecipeError, FileNotFoundError, FileExistsError) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    run(main)
