"""A small image classifier with random weights, as the network of a Fréchet distance."""

from pathlib import Path

import torch
from transformers import ResNetConfig, ResNetForImageClassification


def save_small_classifier(folder: Path, names: dict[int, str]) -> None:
    """Writes a ResNet of the classes `names`; equal weights each time."""
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 12],
        depths=[1, 1],
        layer_type="basic",
        id2label=names,
        label2id={name: label for label, name in names.items()},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ResNetForImageClassification(config).save_pretrained(folder)
