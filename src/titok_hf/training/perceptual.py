"""Perceptual loss: two images are alike where a classifier sees the same in them."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import cached_file

from .configs import PerceptualConfig
from .recipes import RecipeError


class PerceptualLoss(nn.Module):
    """
    Distance of two images in the eyes of a frozen `transformers` image classifier: of its class logits (the published
    recipe, with ConvNeXt-S) and, where asked, of its hidden states, each normalised over channels as in LPIPS
    (arXiv 1801.03924).

    The classifier's own size, mean and standard deviation are applied if an image processor is saved beside it;
    without one it takes values in [0, 1] of any size.

    Raises:
        RecipeError: `config.model` is neither a folder nor a Hub id of such a classifier.
    """

    def __init__(self, config: PerceptualConfig):
        super().__init__()
        self.logits_weight = config.logits_weight
        self.features_weight = config.features_weight
        try:
            network = AutoModelForImageClassification.from_pretrained(config.model)
        except (OSError, ValueError) as error:
            raise RecipeError(
                f"loss.perceptual.model is {config.model!r}, which holds no transformers image classifier ({error}). "
                "Name a folder or a Hub id of one, or train a small one with `python -m titok_hf.training.classifier`."
            ) from error
        self.network = network.eval().requires_grad_(False)
        self.size: tuple[int, int] | None = None
        mean, std = [0.0], [1.0]
        if cached_file(config.model, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False):
            processor = AutoImageProcessor.from_pretrained(config.model)
            mean, std = processor.image_mean, processor.image_std
            size = processor.size
            self.size = (size.get("height", size["shortest_edge"]), size.get("width", size["shortest_edge"]))
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "PerceptualLoss":
        """The network stays in evaluation mode: its statistics are part of the measure."""
        return super().train(False)

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """
        Args:
            prediction, target: float, shape (batch, channels, height, width), nominally in [0, 1].
        Returns:
            scalar; gradients reach `prediction` only.
        """
        with torch.no_grad():
            wanted = self._look(target)
        seen = self._look(prediction)
        loss = self.logits_weight * F.mse_loss(seen.logits.float(), wanted.logits.float())
        if self.features_weight:
            pairs = list(zip(seen.hidden_states, wanted.hidden_states, strict=True))
            loss = loss + self.features_weight * sum(_normalized_distance(a, b) for a, b in pairs) / len(pairs)
        return loss

    def _look(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        if self.size is not None:
            pixel_values = F.interpolate(pixel_values, self.size, mode="bilinear", antialias=True)
        pixel_values = ((pixel_values - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.network(pixel_values, output_hidden_states=bool(self.features_weight))


def _normalized_distance(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared distance of unit feature vectors, summed over channels (axis 1), averaged over places and images."""
    difference = F.normalize(prediction.float(), dim=1) - F.normalize(target.float(), dim=1)
    return difference.square().sum(dim=1).mean()


__all__ = ["PerceptualLoss"]
