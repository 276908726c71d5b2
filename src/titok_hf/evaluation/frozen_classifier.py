"""An image classifier of `transformers` as a fixed measure of images: logits, hidden states, pooled features."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import cached_file

from titok_hf.checkpoints.layout import check_finite_weights

from .torchvision_convnext import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    INPUT_SIZE,
    is_torchvision_convnext,
    load_torchvision_convnext,
)


class FrozenClassifier(nn.Module):
    """
    An image classifier in evaluation mode whose weights take no gradient; gradients pass through it to the images.

    The input size, mean and standard deviation of an image processor saved beside the classifier are applied; without
    one it takes values in [0, 1] of any size. Images are resized to the network's own input size, bilinear and
    antialiased, without cropping, so that every pixel counts.

    Args:
        name: a folder or Hub id for `AutoModelForImageClassification`, or the folder of a run that trained one;
            torchvision's name of the published perceptual network, `ConvNeXt_Small_Weights.IMAGENET1K_V1`; or a
            `.pth` file with a ConvNeXt of torchvision. The last two get the size, mean and standard deviation that
            torchvision states.
    Raises:
        ValueError: there is no such classifier, or it cannot be reached without a network.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        name = _model_folder(name)
        from_torchvision = is_torchvision_convnext(name)
        network = load_torchvision_convnext(name) if from_torchvision else load_classifier(name)
        self.network = network.eval().requires_grad_(False)
        self.num_channels: int = getattr(self.network.config, "num_channels", 3)
        self.size: tuple[int, int] | None = None
        mean, std = [0.0], [1.0]
        if from_torchvision:
            self.size, mean, std = INPUT_SIZE, IMAGENET_MEAN, IMAGENET_STD
        elif cached_file(name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False):
            processor = AutoImageProcessor.from_pretrained(name)
            self.size = _input_size(processor)
            if getattr(processor, "do_normalize", False):
                mean, std = processor.image_mean, processor.image_std
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> FrozenClassifier:
        """The network stays in evaluation mode: its statistics are part of the measure."""
        return super().train(False)

    def forward(self, images: torch.Tensor, output_hidden_states: bool = False) -> ImageClassifierOutput:
        """Logits, and hidden states where asked, of float images in [0, 1], shape (batch, channels, height, width)."""
        return self.network(self._prepare(images), output_hidden_states=output_hidden_states)

    def pooled_features(self, images: torch.Tensor) -> torch.Tensor:
        """What the classifying layer sees, in float32 or the caller's autocast precision: (batch, num_features).

        The network's own pooled output; where it has none, the mean of the last hidden state over its places.
        """
        outputs = self.network.base_model(self._prepare(images))
        pooled = getattr(outputs, "pooler_output", None)
        if pooled is None:
            last = outputs.last_hidden_state
            pooled = last.mean(dim=(2, 3)) if last.ndim == 4 else last.mean(dim=1)
        return pooled.flatten(1)

    def _prepare(self, images: torch.Tensor) -> torch.Tensor:
        images = images.float()
        if self.size is not None:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


def load_classifier(name: str) -> PreTrainedModel:
    """
    An image classifier of transformers, complete. In the folder of a training run it is `model`.

    Raises:
        ValueError: no classifier there, or one that lacks weights.
        OSError: weights that are not finite.
    """
    name = _model_folder(name)
    try:
        network, report = AutoModelForImageClassification.from_pretrained(name, output_loading_info=True)
    except (OSError, ValueError) as error:
        what = (
            "a folder without an image classifier of transformers"
            if Path(name).is_dir()
            else "neither a folder here nor the Hub id of an image classifier that can be loaded"
        )
        raise ValueError(
            f"{name!r} is {what} ({_first_line(error)}). Name a folder or a Hub id of one. Without a network, "
            "download it elsewhere with `hf download ID --local-dir FOLDER` and name the folder."
        ) from error
    if report["missing_keys"]:
        # transformers would go on with random weights in their place.
        raise ValueError(
            f"{name!r} lacks weights of {type(network).__name__}: {', '.join(sorted(report['missing_keys']))}. "
            "Name a classifier that was trained and saved with its classifying layer."
        )
    check_finite_weights(name, network.state_dict())
    return network


def _model_folder(name: str) -> str:
    model = Path(name, "model")
    return str(model) if (model / "config.json").is_file() else name


def _input_size(processor: BaseImageProcessor) -> tuple[int, int]:
    """Height and width that reach the network after an image processor's resizing and cropping."""
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    edge = size.get("shortest_edge")
    return (edge, edge) if edge else (size["height"], size["width"])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


__all__ = ["FrozenClassifier", "load_classifier"]
